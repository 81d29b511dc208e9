"use strict";

// Drop or record → the service → words with times. All state is in `now`.

const $ = (id) => document.getElementById(id);
const now = { samples: null, rate: 0, duration: 0, words: [], answer: null, blob: null, name: "", recorder: null, stopAt: 0 };
const NATIVE = /\.(wav|flac|mp3|ogg|oga|opus|aiff?|au|caf)$/i;

function tell(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(1).padStart(4, "0")}`;
}

function headers() {
  return $("token").value ? { Authorization: `Bearer ${$("token").value}` } : {};
}

async function decoded(blob) {
  const context = new OfflineAudioContext(1, 1, 16000);
  try {
    const buffer = await context.decodeAudioData(await blob.arrayBuffer());
    const mono = new Float32Array(buffer.length);
    for (let c = 0; c < buffer.numberOfChannels; c++) {
      buffer.getChannelData(c).forEach((v, i) => { mono[i] += v / buffer.numberOfChannels; });
    }
    return { samples: mono, rate: buffer.sampleRate };
  } catch {
    return null; // the service may still know the format
  }
}

// 16-bit PCM in a RIFF header of 44 bytes.
function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, s) => [...s].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((v, i) => view.setInt16(44 + 2 * i, Math.round(32767 * Math.max(-1, Math.min(1, v))), true));
  return new Blob([view], { type: "audio/wav" });
}

async function take(blob, name) {
  tell(`Reading ${name} …`);
  const sound = await decoded(blob);
  now.samples = sound?.samples ?? null;
  now.rate = sound?.rate ?? 0;
  // what the service cannot read (m4a, webm, a microphone), but this browser can, goes there as wav
  now.blob = sound && !NATIVE.test(name) ? wav(sound.samples, sound.rate) : blob;
  now.name = name;
  await send();
}

async function send() {
  const form = new FormData();
  form.append("file", now.blob, now.blob.type === "audio/wav" && !NATIVE.test(now.name) ? `${now.name}.wav` : now.name);
  form.append("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "word");
  form.append("timestamp_granularities[]", "segment");
  tell(`Transcribing ${now.name} …`);
  const began = performance.now();
  let answer;
  try {
    const response = await fetch("v1/audio/transcriptions", { method: "POST", body: form, headers: headers() });
    answer = await response.json();
    if (response.status === 401) {
      $("token-row").hidden = false;
      $("token").focus();
    }
    if (!response.ok) throw new Error(answer.error?.message ?? `status ${response.status}`);
  } catch (error) {
    tell(`${now.name}: ${error.message}`, true);
    return;
  }
  now.answer = answer;
  now.words = answer.words;
  now.duration = answer.duration;
  const took = ((performance.now() - began) / 1000).toFixed(1);
  tell(answer.words.length ? `${now.name}: ${clock(answer.duration)} in ${took} s` : `${now.name}: no words were heard`);
  show();
}

function show() {
  $("result").hidden = false;
  URL.revokeObjectURL($("audio").src);
  $("audio").src = URL.createObjectURL(now.blob);
  $("words").replaceChildren(...now.words.map((word) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = word.word;
    // certainty below a half looks alike: full shade
    button.style.setProperty("--sure", Math.max(0.3, 2 * word.probability - 1).toFixed(3));
    button.title = `${clock(word.start)} – ${clock(word.end)}, ${Math.round(100 * word.probability)} % sure`;
    button.setAttribute("aria-label", `${word.word}, ${button.title}`);
    const time = document.createElement("small");
    time.textContent = clock(word.start);
    time.ariaHidden = "true";
    button.append(time);
    button.addEventListener("click", () => play(word.start, word.end));
    return button;
  }));
  draw();
}

function draw() {
  const canvas = $("canvas"), scale = devicePixelRatio || 1;
  const width = canvas.width = Math.round(canvas.clientWidth * scale);
  const height = canvas.height = Math.round(canvas.clientHeight * scale);
  const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const x = (seconds) => (seconds / now.duration) * width;
  pen.clearRect(0, 0, width, height);
  for (const word of now.words) {
    pen.fillStyle = `rgb(${color("--doubt")} / ${(0.12 + 0.5 * (1 - word.probability)).toFixed(2)})`;
    pen.fillRect(x(word.start), 0, Math.max(1, x(word.end) - x(word.start)), height);
  }
  pen.fillStyle = color("--ink");
  const step = (now.samples?.length ?? 0) / width;
  for (let column = 0; step > 0 && column < width; column++) {
    let low = 0, high = 0;
    for (let i = Math.floor(column * step); i < (column + 1) * step; i++) {
      low = Math.min(low, now.samples[i]);
      high = Math.max(high, now.samples[i]);
    }
    pen.fillRect(column, height * (0.5 - high / 2), 1, Math.max(scale, height * (high - low) / 2));
  }
  pen.fillStyle = color("--accent");
  pen.fillRect(x($("audio").currentTime), 0, 2 * scale, height);
}

function play(from, to = Infinity) {
  const audio = $("audio");
  audio.currentTime = from;
  now.stopAt = to;
  audio.play().catch((error) => tell(`cannot play: ${error.message}`, true));
}

function follow() {
  const audio = $("audio");
  if (audio.currentTime >= now.stopAt) audio.pause();
  $("clock").textContent = clock(audio.currentTime);
  [...$("words").children].forEach((button, i) => {
    const word = now.words[i];
    button.classList.toggle("now", audio.currentTime >= word.start && audio.currentTime < word.end);
  });
  draw();
  if (!audio.paused) requestAnimationFrame(follow);
}

// The same cues as the service's: no longer than 7 s or 84 characters, and none across a long pause.
function subtitles(vtt) {
  const time = (s) => new Date(Math.round(s * 1000)).toISOString().slice(11, 23).replace(".", vtt ? "." : ",");
  const cues = now.answer.segments.map((s, i) =>
    `${vtt ? "" : `${i + 1}\n`}${time(s.start)} --> ${time(s.end)}\n${s.text}\n`);
  return (vtt ? "WEBVTT\n\n" : "") + cues.join("\n");
}

function save(text, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = `${now.name.replace(/\.[^.]*$/, "")}.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function record() {
  if (now.recorder) {
    now.recorder.stop();
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    tell(`no microphone: ${error?.message ?? "this page must be opened on this machine or over https"}`, true);
    return;
  }
  const chunks = [];
  now.recorder = new MediaRecorder(stream);
  now.recorder.ondataavailable = (event) => chunks.push(event.data);
  now.recorder.onstop = () => {
    stream.getTracks().forEach((track) => track.stop());
    const type = now.recorder.mimeType;
    now.recorder = null;
    $("record").textContent = "Record";
    $("record").setAttribute("aria-pressed", "false");
    take(new Blob(chunks, { type }), "recording");
  };
  now.recorder.start();
  $("record").textContent = "Stop";
  $("record").setAttribute("aria-pressed", "true");
  tell("Recording …");
}

$("file").addEventListener("change", (event) => {
  if (event.target.files[0]) take(event.target.files[0], event.target.files[0].name);
  event.target.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
  });
}
$("record").addEventListener("click", record);
$("play").addEventListener("click", () => ($("audio").paused ? play($("audio").ended ? 0 : $("audio").currentTime) : $("audio").pause()));
$("audio").addEventListener("play", () => { $("play").textContent = "Pause"; follow(); });
$("audio").addEventListener("pause", () => { $("play").textContent = "Play"; follow(); });
$("canvas").addEventListener("click", (event) => play((event.offsetX / $("canvas").clientWidth) * now.duration));
$("token").addEventListener("change", () => now.blob && send());
$("srt").addEventListener("click", () => save(subtitles(false), "srt"));
$("vtt").addEventListener("click", () => save(subtitles(true), "vtt"));
$("json").addEventListener("click", () => save(JSON.stringify(now.answer, null, 2), "json"));
$("copy").addEventListener("click", () => navigator.clipboard.writeText(now.answer.text).then(() => tell("copied")));
addEventListener("resize", () => now.answer && draw());
fetch("v1/models", { headers: headers() }).then((r) => (r.ok ? r.json() : null)).then((list) => {
  $("model").textContent = list ? list.data[0].id : "";
});
