// A transcript as verbose_json brings it → clock times and files to save.

export function clock(seconds) {
  const tenths = Math.round(seconds * 10), hours = Math.floor(tenths / 36000);
  const minutes = Math.floor(tenths / 600) % 60, rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

function stamp(seconds, point) {
  const ms = Math.round(seconds * 1000), two = (n) => String(n).padStart(2, "0");
  const whole = `${two(Math.floor(ms / 3600000))}:${two(Math.floor(ms / 60000) % 60)}:${two(Math.floor(ms / 1000) % 60)}`;
  return `${whole}${point}${String(ms % 1000).padStart(3, "0")}`;
}

// Players drop what lasts no time, so a cue lasts a millisecond at least.
function span({ start, end }, point) {
  return `${stamp(start, point)} --> ${stamp(Math.max(end, start + 0.001), point)}`;
}

export function srt(segments) {
  return segments.map((s, i) => `${i + 1}\n${span(s, ",")}\n${s.text}\n`).join("\n");
}

export function vtt(segments) {
  const safe = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  return ["WEBVTT\n", ...segments.map((s) => `${span(s, ".")}\n${safe(s.text)}\n`)].join("\n");
}

// The segments with their words: those that begin before the next segment does.
export function cues({ segments, words }) {
  let next = 0;
  return segments.map((segment, i) => {
    const first = next;
    while (next < words.length && (i === segments.length - 1 || words[next].start < segments[i + 1].start)) next++;
    return { ...segment, words: words.slice(first, next) };
  });
}
