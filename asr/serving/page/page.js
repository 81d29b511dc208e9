// Drop or record → the service → words with times. All state is in `now`.

import { bytes, listen } from "./live.js";
import { decoded, peaks, recorded, wav } from "./sound.js";
import { clock, cues, srt, vtt } from "./transcript.js";

const $ = (id) => document.getElementById(id);
const NATIVE = /\.(wav|flac|mp3|ogg|oga|opus|aiff?|au|caf)$/i; // formats that the service reads itself
const LARGEST_PICTURE = 300e6; // bytes; beyond, decoding here would take a browser's memory
// Models learn from sound as it is.
const PLAIN = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const now = { streams: false, name: "", blob: null, sound: null, peaks: null, answer: null, buttons: [], word: -1, stopAt: Infinity };
let recorder = null, request = null;
// What is asked for now ends what was asked for before.
const anew = () => { request?.abort(); return (request = new AbortController()); };

function tell(text) {
  $("status").textContent = text;
  $("error").hidden = true;
}

function complain(text) {
  tell("");
  $("error").textContent = text;
  $("error").hidden = false;
}

// ---- from a recording to an answer

async function take(blob, name) {
  const mine = anew();
  $("audio").pause();
  $("result").hidden = $("saves").hidden = true;
  $("busy").hidden = false;
  tell(`Reading ${name} …`);
  const sound = blob.size < LARGEST_PICTURE ? await decoded(blob) : null;
  if (mine.signal.aborted) return;
  // what the service cannot read (m4a, webm, a microphone), but this browser can, goes there as wav
  const foreign = sound && !NATIVE.test(name);
  Object.assign(now, { name, sound, peaks: null, answer: null, blob: foreign ? wav(sound) : blob });
  await send(mine, foreign ? `${name}.wav` : name);
}

async function send(mine, filename) {
  const form = new FormData();
  form.append("file", now.blob, filename);
  form.append("response_format", "verbose_json");
  for (const kind of ["word", "segment"]) form.append("timestamp_granularities[]", kind);
  $("busy").hidden = false;
  tell(`Transcribing ${now.name} …`);
  const began = performance.now();
  try {
    now.answer = await asked("v1/audio/transcriptions", { method: "POST", body: form, signal: mine.signal });
  } catch (error) {
    if (!mine.signal.aborted) complain(error.message.includes(now.name) ? error.message : `${now.name}: ${error.message}`);
    return;
  } finally {
    if (request === mine) $("busy").hidden = true;
  }
  told(`, transcribed in ${((performance.now() - began) / 1000).toFixed(1)} s`);
}

function told(more = "") {
  const { words, duration } = now.answer, count = words.length === 1 ? "1 word" : `${words.length} words`;
  tell(words.length ? `${now.name}: ${count} in ${clock(duration)}${more}` : `${now.name}: no words were heard`);
  show();
}

async function asked(path, options = {}) {
  const headers = $("token").value ? { Authorization: `Bearer ${bytes($("token").value)}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw options.signal?.aborted ? error : new Error("the service cannot be reached, or refused the upload");
  }
  if (response.status === 401) {
    $("token-form").hidden = false;
    $("token").focus();
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Error(answer?.error?.message ?? `the service answered ${response.status}`);
  return answer;
}

// ---- from an answer to what is seen

function show() {
  document.body.classList.add("done");
  $("result").hidden = $("saves").hidden = false;
  URL.revokeObjectURL($("audio").src);
  $("audio").src = URL.createObjectURL(now.blob);
  Object.assign(now, { buttons: [], word: -1 });
  $("words").replaceChildren(...cues(now.answer).map(row));
  if (now.buttons.length) now.buttons[0].tabIndex = 0;
  $("wave").setAttribute("aria-valuemax", now.answer.duration.toFixed(1));
  $("legend").hidden = !now.buttons.length;
  follow();
}

function row(cue) {
  const line = document.createElement("div"), at = document.createElement("span"), text = document.createElement("p");
  line.className = "cue";
  at.className = "at";
  at.textContent = clock(cue.start);
  text.append(...cue.words.flatMap((word) => [wordButton(word), " "]));
  line.append(at, text);
  return line;
}

function wordButton(word) {
  const button = document.createElement("button"), text = document.createElement("span"), time = document.createElement("small");
  button.type = "button";
  button.className = "word";
  button.tabIndex = -1; // one stop for the tabulator; arrows go from word to word
  text.textContent = word.word;
  time.textContent = clock(word.start);
  button.append(text, time);
  const sure = `${Math.round(100 * word.probability)} % sure`;
  button.setAttribute("aria-label", `${word.word}, ${clock(word.start)}, ${sure}`);
  button.title = sure;
  button.style.setProperty("--unsure", unsure(word).toFixed(3));
  const tellMore = () => { $("detail").textContent = `${word.word}: ${clock(word.start)} – ${clock(word.end)}, ${sure}`; };
  button.addEventListener("pointerenter", tellMore);
  button.addEventListener("focus", tellMore);
  button.addEventListener("click", () => { focusWord(now.buttons.indexOf(button)); play(word.start, word.end); });
  now.buttons.push(button);
  return button;
}

// Shade runs from none at 95 % to full at 40 %.
const unsure = ({ probability }) => Math.max(0, Math.min(1, (0.95 - probability) / 0.55));

function focusWord(index) {
  for (const button of now.buttons) if (button.tabIndex === 0) button.tabIndex = -1;
  now.buttons[index].tabIndex = 0;
  now.buttons[index].focus();
}

function draw() {
  const canvas = $("canvas"), scale = devicePixelRatio || 1, { duration, words } = now.answer;
  const width = Math.round(canvas.clientWidth * scale), height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  if (now.sound && now.peaks?.low.length !== width) now.peaks = peaks(now.sound.samples, width);
  const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const x = (seconds) => Math.round((seconds / Math.max(duration, 0.001)) * width), played = x($("audio").currentTime);
  pen.clearRect(0, 0, width, height);
  for (const word of words) {
    pen.fillStyle = `rgb(${color("--doubt")} / ${(unsure(word) * 0.55).toFixed(2)})`;
    pen.fillRect(x(word.start), 0, Math.max(1, x(word.end) - x(word.start)), height);
  }
  const middle = height / 2;
  for (let column = 0; now.peaks && column < width; column++) {
    const high = now.peaks.high[column] * middle * 0.92, low = now.peaks.low[column] * middle * 0.92;
    pen.fillStyle = color(column < played ? "--accent" : "--faint");
    pen.fillRect(column, middle - high, 1, Math.max(scale, high - low));
  }
  pen.fillStyle = color("--accent");
  pen.fillRect(Math.min(played, width - 2 * scale), 0, 2 * scale, height);
}

// ---- playing

function play(from, to = Infinity) {
  const audio = $("audio");
  audio.currentTime = from;
  now.stopAt = to;
  audio.play().catch((error) => error.name !== "AbortError" && complain(`${now.name} cannot be played: ${error.message}`));
}

function toggle() {
  const audio = $("audio");
  if (!audio.paused) audio.pause();
  else play(audio.ended ? 0 : audio.currentTime);
}

function follow() {
  if (!now.answer) return;
  const audio = $("audio"), at = audio.currentTime, { words, duration } = now.answer;
  if (at >= now.stopAt) audio.pause();
  $("clock").textContent = `${clock(at)} / ${clock(duration)}`;
  $("wave").setAttribute("aria-valuenow", at.toFixed(1));
  $("wave").setAttribute("aria-valuetext", clock(at));
  const heard = Math.min(at, now.stopAt - 0.02); // the word that was asked for stays marked when it ends
  const word = audio.paused && at === 0 ? -1 : words.findLastIndex((w) => w.start <= heard + 0.01);
  if (word !== now.word) {
    now.buttons[now.word]?.classList.remove("now");
    now.buttons[word]?.classList.add("now");
    if (!audio.paused) now.buttons[word]?.scrollIntoView({ block: "nearest" });
    now.word = word;
  }
  draw();
  if (!audio.paused) requestAnimationFrame(follow);
}

// ---- saving

function save(text, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = `${now.name.replace(/\.[^.]*$/, "")}.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function copy() {
  try {
    await navigator.clipboard.writeText(now.answer.text);
    tell("The text is in the clipboard.");
  } catch {
    complain("This browser gives no access to the clipboard.");
  }
}

// ---- recording

async function record() {
  if (recorder) return recorder.stop();
  if (!navigator.mediaDevices) return complain("No microphone: browsers allow it only on https and on localhost.");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: PLAIN });
  } catch (error) {
    return complain(`No microphone: ${error.message}`);
  }
  if (recorder) return stream.getTracks().forEach((track) => track.stop());
  request?.abort();
  $("audio").pause();
  $("busy").hidden = $("result").hidden = $("saves").hidden = true;
  try {
    recorder = { stop() {} }; // until it has begun
    recorder = (await listened(stream)) ?? recorded(stream, (blob) => take(blob, "recording"));
  } catch (error) {
    recorder = null;
    $("live").hidden = true;
    stream.getTracks().forEach((track) => track.stop());
    return complain(`The microphone cannot be recorded: ${error.message}`);
  }
  const began = performance.now(), mine = recorder, { stop } = mine;
  const tick = () => tell(`Recording ${clock((performance.now() - began) / 1000)}`);
  const ticking = setInterval(tick, 100);
  mine.stop = () => {
    clearInterval(ticking);
    recorder = null;
    pressed(false);
    stop();
  };
  // such as a microphone that is unplugged
  for (const track of stream.getTracks()) track.onended = () => { if (recorder === mine) mine.stop(); };
  pressed(true);
}

// The words while they are said, if the model hears the past alone; null if the service or the browser cannot.
async function listened(stream) {
  if (!now.streams || !window.AudioWorkletNode || !window.WebSocket) return null;
  soFar("", "");
  const line = await listen(stream, $("token").value, soFar);
  return {
    async stop() {
      tell("Listening to the end …");
      const mine = anew();
      $("busy").hidden = true;
      const { sound, answer } = await line.stop();
      if (!recorder) $("live").hidden = true;
      if (mine.signal.aborted) return;
      if (!answer) return take(wav(sound), "recording");
      Object.assign(now, { name: "recording", sound, peaks: null, answer, blob: wav(sound) });
      told();
    },
  };
}

function soFar(stable, unstable) {
  $("live").hidden = false;
  $("stable").textContent = stable;
  $("unstable").textContent = unstable;
}

function pressed(recording) {
  $("record").textContent = recording ? "Stop" : "Record";
  $("record").setAttribute("aria-pressed", recording);
}

// ---- what a hand can do

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) take(target.files[0], target.files[0].name);
  target.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) take(file, file.name);
  });
}
$("record").addEventListener("click", record);
$("cancel").addEventListener("click", () => { request?.abort(); $("busy").hidden = true; tell("Cancelled."); });
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("token-form").hidden = true;
  greet();
  if (now.blob) send(anew(), now.blob.type === "audio/wav" && !NATIVE.test(now.name) ? `${now.name}.wav` : now.name);
});
$("play").addEventListener("click", toggle);
for (const kind of ["play", "pause", "seeked", "ended"]) {
  $("audio").addEventListener(kind, () => { $("play").textContent = $("audio").paused ? "Play" : "Pause"; follow(); });
}
$("wave").addEventListener("click", (event) => {
  play(((event.clientX - $("canvas").getBoundingClientRect().left) / $("canvas").clientWidth) * now.answer.duration);
});
$("wave").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  now.stopAt = Infinity;
  $("audio").currentTime = Math.max(0, Math.min(now.answer.duration, $("audio").currentTime + step));
});
$("words").addEventListener("keydown", (event) => {
  const at = now.buttons.indexOf(document.activeElement), last = now.buttons.length - 1;
  const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  focusWord(Math.max(0, Math.min(last, to)));
});
document.addEventListener("keydown", (event) => {
  const busy = event.target.matches?.("button:not(.word), input") || event.ctrlKey || event.metaKey || event.altKey;
  if (event.key !== " " || busy || !now.answer || $("result").hidden) return;
  event.preventDefault();
  toggle();
});
document.addEventListener("keyup", (event) => event.key === " " && event.target.matches?.(".word") && event.preventDefault());
$("srt").addEventListener("click", () => save(srt(now.answer.segments), "srt"));
$("vtt").addEventListener("click", () => save(vtt(now.answer.segments), "vtt"));
$("json").addEventListener("click", () => save(JSON.stringify(now.answer, null, 2), "json"));
$("copy").addEventListener("click", copy);
for (const [target, kind] of [[window, "resize"], [matchMedia("(prefers-color-scheme: dark)"), "change"]]) {
  target.addEventListener(kind, () => now.answer && !$("result").hidden && draw());
}

function greet() {
  asked("v1/models").then(({ data: [model] }) => {
    $("model").textContent = `with the model ${model.id}`;
    now.streams = model.streams;
  }, () => {});
}
greet();
