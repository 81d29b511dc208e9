// Sound in the browser: recording, decoding, WAV, and what a waveform needs.

const CHUNK = 1 << 16;

// Begins to record; after { stop }, `take` is called with the recording.
export function recorded(stream, take) {
  const chunks = [], machine = new MediaRecorder(stream);
  machine.ondataavailable = (event) => chunks.push(event.data);
  machine.onstop = () => {
    stream.getTracks().forEach((track) => track.stop());
    take(new Blob(chunks, { type: machine.mimeType }));
  };
  machine.start();
  return { stop: () => machine.stop() };
}

// Mono samples of whatever this browser can decode, or null; the service may still know the format.
export async function decoded(blob) {
  try {
    const context = new OfflineAudioContext(1, 1, 16000);
    const buffer = await context.decodeAudioData(await blob.arrayBuffer());
    const samples = new Float32Array(buffer.length);
    for (let c = 0; c < buffer.numberOfChannels; c++) {
      const channel = buffer.getChannelData(c);
      for (let i = 0; i < samples.length; i++) samples[i] += channel[i] / buffer.numberOfChannels;
    }
    return { samples, rate: buffer.sampleRate };
  } catch {
    return null;
  }
}

// 16-bit PCM behind a RIFF header of 44 bytes.
export function wav({ samples, rate }) {
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((c, i) => head.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); head.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  head.setUint32(16, 16, true); head.setUint16(20, 1, true); head.setUint16(22, 1, true);
  head.setUint32(24, rate, true); head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true); head.setUint16(34, 16, true);
  text(36, "data"); head.setUint32(40, 2 * samples.length, true);
  const parts = [head];
  for (let at = 0; at < samples.length; at += CHUNK) {
    const part = new DataView(new ArrayBuffer(2 * Math.min(CHUNK, samples.length - at)));
    for (let i = 0; 2 * i < part.byteLength; i++) {
      part.setInt16(2 * i, Math.round(32767 * Math.max(-1, Math.min(1, samples[at + i]))), true);
    }
    parts.push(part);
  }
  return new Blob(parts, { type: "audio/wav" });
}

// Lowest and highest sample of each of `columns` equal parts, scaled so that the loudest reaches 1.
export function peaks(samples, columns) {
  const low = new Float32Array(columns), high = new Float32Array(columns);
  const step = samples.length / columns;
  let loudest = 1e-3;
  for (let column = 0; column < columns; column++) {
    const end = Math.min(samples.length, Math.max((column + 1) * step, Math.floor(column * step) + 1));
    for (let i = Math.floor(column * step); i < end; i++) {
      if (samples[i] < low[column]) low[column] = samples[i];
      else if (samples[i] > high[column]) high[column] = samples[i];
    }
    loudest = Math.max(loudest, -low[column], high[column]);
  }
  return { low: low.map((v) => v / loudest), high: high.map((v) => v / loudest) };
}
