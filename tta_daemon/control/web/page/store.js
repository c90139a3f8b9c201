// The numbers over time, as far as they have been told: columns of equal length.

export class Store {
  at = [];
  values = {};
  step = 1;

  take(samples, span, fresh) {
    if (fresh) {
      this.at = [];
      this.values = {};
    }
    this.step = samples.step;
    const before = this.at.length;
    this.at.push(...samples.at);
    for (const name of new Set([...Object.keys(this.values), ...Object.keys(samples.values)])) {
      const column = (this.values[name] ??= new Array(before).fill(null));
      column.push(...(samples.values[name] ?? new Array(samples.at.length).fill(null)));
    }
    const old = this.at.findIndex((at) => at >= this.at[this.at.length - 1] - span);
    if (old > 0) {
      this.at.splice(0, old);
      for (const column of Object.values(this.values)) column.splice(0, old);
    }
  }

  column(name) {
    return this.values[name] ?? [];
  }

  has(name) {
    return this.column(name).some((value) => value !== null);
  }

  // The time shown: all of the span, or what there is of it, but a minute at least.
  range(span) {
    const end = this.at[this.at.length - 1] ?? Date.now() / 1000;
    return [Math.max(end - span, Math.min(this.at[0] ?? end, end - 60)), end];
  }

  // Where in the columns a time is; -1 where there is nothing.
  nearest(at) {
    let low = 0;
    let high = this.at.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.at[middle] < at) low = middle + 1;
      else high = middle;
    }
    return low > 0 && at - this.at[low - 1] < this.at[low] - at ? low - 1 : high;
  }
}
