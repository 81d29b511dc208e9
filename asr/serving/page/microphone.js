// Runs beside the page, where sound arrives: blocks of a tenth of a second, mono float32, go to the page.

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.port.onmessage = () => { this.hand(); this.port.postMessage(null); }; // asked for the rest: that is the end
  }

  hand() {
    this.port.postMessage(this.block.slice(0, this.filled));
    this.filled = 0;
  }

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.block[this.filled++] = sample;
      if (this.filled === this.block.length) this.hand();
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
