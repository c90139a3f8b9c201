// What is drawn over time, and in what words its absence is told.

import { Chart, nice } from "./chart.js";
import { count, percent, seconds, times, whole } from "./words.js";

// From round number to round number.
function round(low, high) {
  const ticks = nice(low, high);
  const step = ticks.length > 1 ? ticks[1] - ticks[0] : high - low;
  return { low: Math.max(0, Math.floor(low / step + 1e-9) * step), high: Math.ceil(high / step - 1e-9) * step };
}

const shares = (values) => {
  const low = Math.min(...values);
  const high = Math.max(...values);
  return round(Math.max(0, Math.min(low - 0.03, high - 0.2)), Math.min(1, Math.max(high + 0.03, low + 0.2)));
};

const fromZero = (least) => (values) => round(0, Math.max(least, ...values) * 1.05);

const ratios = (values) => ({
  low: 0.1,
  high: Math.max(10, 10 ** Math.ceil(Math.log10(Math.max(1, ...values)) - 1e-9)),
  log: true,
});

const shortSeconds = (value) => (value === 0 ? "0" : seconds(value).replace(".0", ""));
const shortTimes = (value) => `${value < 1 ? value.toFixed(1) : value.toLocaleString("en")}\u00d7`;
const prior = "run tta-daemon prepare on a few source images, and name the prior in the configuration.";

const PLANS = [
  {
    name: "accuracy",
    title: "Accuracy",
    unit: "share of the newest labeled images answered right; estimates need no labels",
    wide: true,
    lines: [
      { name: "answers", column: "accuracy_served", kind: "adapted" },
      { name: "frozen", column: "accuracy_source", kind: "source" },
      { name: "adapted alone", column: "accuracy_adapted", kind: "fourth" },
      {
        name: "adapted, estimated",
        column: "estimate_adapted",
        low: "estimate_adapted_low",
        high: "estimate_adapted_high",
        kind: "estimate",
      },
      { name: "frozen, estimated", column: "estimate_source", kind: "estimate-source" },
    ],
    format: percent,
    axis: (value) => percent(value, 0),
    scale: shares,
    none: () => `No labels yet, and no estimates. Labels are read from kafka.labels_topic; for estimates ${prior}`,
  },
  {
    name: "drift",
    title: "Drift",
    unit: "each score as a multiple of its threshold; a log scale",
    wide: true,
    lines: [
      { name: "layer statistics", column: "drift_bn_statistics", kind: "first" },
      { name: "features", column: "drift_features", kind: "second" },
      { name: "entropy", column: "drift_entropy", kind: "third" },
      { name: "predicted classes", column: "drift_predicted_labels", kind: "fourth" },
    ],
    of: (value, line, store, i) => value / (store.column(line.column.replace("drift", "threshold"))[i] || NaN),
    format: times,
    axis: shortTimes,
    scale: ratios,
    limit: { at: 1, name: "threshold" },
    more: (store) =>
      [["adwin", "ADWIN"], ["page_hinkley", "Page-Hinkley"]]
        .filter(([name]) => store.has(`drift_${name}`))
        .map(([name, words]) => `${words} ${store.column(`drift_${name}`).at(-1) > 0.5 ? "sees a change" : "quiet"}`),
    none: () => `Drift is not measured: there is no prior. To have it, ${prior}`,
  },
  {
    name: "confidence",
    title: "Confidence",
    unit: "mean over about the last thousand images",
    lines: [
      { name: "answers", column: "confidence_served", kind: "adapted" },
      { name: "frozen", column: "confidence_source", kind: "source" },
      { name: "adapted and frozen agree", column: "agreement", kind: "third" },
    ],
    format: percent,
    axis: (value) => percent(value, 0),
    scale: shares,
    none: () => "No image has been answered yet.",
  },
  {
    name: "latency",
    title: "Latency",
    unit: "from record to answer, over the last 15 s",
    lines: [
      { name: "median", column: "latency_median", kind: "adapted" },
      { name: "99th percentile", column: "latency_p99", kind: "source" },
    ],
    format: seconds,
    axis: shortSeconds,
    scale: fromZero(0.01),
    none: () => "No record has been answered in this time.",
  },
  {
    name: "throughput",
    title: "Throughput",
    unit: "a second, over the last 15 s",
    lines: [
      { name: "images answered", column: "images_per_s", kind: "adapted" },
      { name: "records read", column: "records_per_s", kind: "source" },
    ],
    format: count,
    axis: whole,
    scale: fromZero(5),
    none: () => "Nothing has been counted yet.",
  },
  {
    name: "lag",
    title: "Lag",
    unit: "records, over all partitions held",
    lines: [
      { name: "not yet read", column: "lag", kind: "adapted" },
      { name: "images waiting for their batch", column: "waiting", kind: "source" },
    ],
    format: whole,
    axis: whole,
    scale: fromZero(10),
    none: () => "No partition is held yet.",
  },
];

export const charts = PLANS.map((plan) => new Chart(plan));
