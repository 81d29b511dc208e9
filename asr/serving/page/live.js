// A microphone → the words while they are said, by the service's WebSocket; at the end, all that was heard.

const PATH = "v1/audio/stream";
const MOST_WAITING = 4e6; // bytes that the service has not taken yet; it is too slow to follow then

// Begins to listen, with the service's token, if it has one. `tell(stable, unstable)` is called with the text so far: what stays, and a guess at what follows.
// The promise gives { stop }, and stop() a promise of { sound, answer }; answer is null if the service broke off.
export async function listen(stream, token, tell) {
  const context = new AudioContext();
  try {
    return await heard(context, stream, token, tell);
  } catch (error) {
    await context.close();
    throw error;
  }
}

async function heard(context, stream, token, tell) {
  await context.audioWorklet.addModule("microphone.js");
  const source = context.createMediaStreamSource(stream);
  const node = new AudioWorkletNode(context, "microphone", { channelCount: 1, channelCountMode: "explicit" });
  const blocks = [], line = open(`${PATH}?sample_rate=${context.sampleRate}`, token, tell);
  let ended;
  const end = new Promise((resolve) => { ended = resolve; });
  node.port.onmessage = ({ data }) => {
    if (data === null) return ended();
    blocks.push(data);
    line.send(pcm(data));
  };
  source.connect(node);
  return {
    async stop() {
      node.port.postMessage("the rest");
      await end;
      for (const track of stream.getTracks()) track.stop();
      await context.close();
      return { sound: { samples: joined(blocks), rate: context.sampleRate }, answer: await line.end() };
    },
  };
}

function open(path, token, tell) {
  const address = new URL(path, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address, token ? ["asr", `bearer.${base64url(token)}`] : []), early = [];
  let stable = "", final = null;
  socket.onopen = () => { for (const message of early) socket.send(message); };
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "partial") tell((stable += message.stable), message.unstable);
    if (message.type === "final") final = message;
  };
  const closed = new Promise((resolve) => { socket.onclose = resolve; });
  const send = (message) => {
    if (socket.bufferedAmount > MOST_WAITING) socket.close();
    if (socket.readyState === WebSocket.CONNECTING) early.push(message);
    if (socket.readyState === WebSocket.OPEN) socket.send(message);
  };
  return {
    send,
    async end() {
      send('{"type": "end"}');
      await closed;
      return final;
    },
  };
}

// A text with one character for each byte of its UTF-8, as headers want it.
export function bytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

function base64url(text) {
  return btoa(bytes(text)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function pcm(samples) {
  const whole = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((x, i) => whole.setInt16(2 * i, Math.round(32767 * Math.max(-1, Math.min(1, x))), true));
  return whole.buffer;
}

function joined(blocks) {
  const samples = new Float32Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) {
    samples.set(block, at);
    at += block.length;
  }
  return samples;
}
