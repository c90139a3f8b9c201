// The daemon's word, once a second: a stream where one can be had, else by asking; and whether there is any.

const SILENT_MS = 5000;
const ASK_MS = 2000;
const ASKED_BEFORE_STREAM = 30;

export class Feed {
  #heard;
  #contact;
  #span = 900;
  #cursor = "";
  #run = null;
  #stream = null;
  #timer = 0;
  #asked = 0;
  #turn = 0;

  // heard(document, fresh) is given each document; fresh where nothing before it counts. contact(state) says how we hear.
  constructor(heard, contact) {
    this.#heard = heard;
    this.#contact = contact;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#hangUp() : this.#listen()));
  }

  open(span) {
    this.#span = span;
    this.#cursor = "";
    this.#listen();
  }

  get #query() {
    return `span=${this.#span}${this.#cursor && `&cursor=${this.#cursor}`}`;
  }

  #hangUp() {
    this.#turn += 1;
    clearTimeout(this.#timer);
    this.#stream?.close();
    this.#stream = null;
  }

  #listen() {
    this.#hangUp();
    if (document.hidden) return;
    const stream = new EventSource(`api/events?${this.#query}`);
    this.#stream = stream;
    const waitOn = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#ask(), SILENT_MS);
    };
    waitOn();
    stream.onmessage = (message) => {
      if (stream !== this.#stream) return;
      waitOn();
      this.#take(JSON.parse(message.data), "live");
    };
    stream.onerror = () => stream === this.#stream && this.#ask();
  }

  async #ask() {
    this.#hangUp();
    const turn = this.#turn;
    let heard = null;
    try {
      const answer = await fetch(`api/history?${this.#query}`, { cache: "no-store", signal: AbortSignal.timeout(SILENT_MS) });
      heard = answer.ok ? await answer.json() : null;
    } catch {
      heard = null;
    }
    if (turn !== this.#turn) return;
    this.#asked += 1;
    if (heard === null) this.#contact("lost");
    else this.#take(heard, "asking");
    if (turn !== this.#turn) return;
    const again = heard !== null && (this.#asked % ASKED_BEFORE_STREAM === 0 || this.#wasLost);
    this.#wasLost = heard === null;
    this.#timer = setTimeout(() => (again ? this.#listen() : this.#ask()), again ? 0 : ASK_MS);
  }

  #wasLost = true;

  #take(said, how) {
    const fresh = this.#cursor === "" || said.run !== this.#run;
    if (fresh && this.#cursor !== "") {
      this.#run = said.run; // another process: what we know is of one that has gone
      this.open(this.#span);
      return;
    }
    this.#run = said.run;
    this.#cursor = said.cursor;
    this.#contact(how, said.at);
    this.#heard(said, fresh);
  }
}
