// The page of a live session: the socket, what it says, and what a person can do.

import { Camera, cameras } from "./camera.js";
import { confidence, drawOverlay, Timeline } from "./drawing.js";

const $ = (id) => document.getElementById(id);
const key = location.hash.slice(1);
const NO_KEY = 4401, PROGRAM_ENDED = 1012, SPEAK_MS = 2500, STALE_MS = 1500, HOLD_MS = 400, RETRY_MS = 4000;
const SLIDERS = {
  ema_alpha: ["Average: share of the past", "[ ]"], hysteresis_delta: ["Margin to change", "- ="],
  vote_window: ["Vote window, frames", "v b"], vote_min_count: ["Votes needed", "n m"],
};

let socket = null, retry = 500, about = null, state = null, setting = null, over = false, seen = 0, chosen = "";
let timeline = null, painting = false, spoken = { text: "", at: 0, timer: 0 };
const camera = new Camera($("video"), sendPicture, (text) => { say("camera", text); showCamera(); });
const notices = new Map(), rows = [], labels = [], sliders = {};

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// One notice a topic; blank takes it away; it leaves by itself after `seconds` if given.
function say(topic, text, seconds = 0, plain = false) {
  const old = notices.get(topic);
  if (old) clearTimeout(old.timer);
  if (old && old.text === text && !seconds) return;
  notices.delete(topic);
  if (text) notices.set(topic, { text, plain, timer: seconds ? setTimeout(() => say(topic, ""), seconds * 1000) : 0 });
  $("notices").replaceChildren(...[...notices.values()].map(
    (n) => element("p", { className: n.plain ? "notice plain" : "notice", textContent: n.text })));
}

// ---- the socket

function connect() {
  const url = new URL("ws", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  url.search = `?token=${encodeURIComponent(key)}`;
  url.hash = "";
  socket = new WebSocket(url);
  socket.binaryType = "blob";
  socket.onmessage = ({ data }) => (typeof data === "string" ? receive(JSON.parse(data)) : showPreview(data));
  socket.onclose = ({ code }) => disconnected(code);
}

function disconnected(code) {
  socket = null;
  showCamera();
  $("link").textContent = "Not connected";
  $("link").className = "pill bad";
  $("end").disabled = true;
  if (code === NO_KEY) {
    say("link", "This address lacks its key. Open the whole address that fer live printed, including the part after #.");
    document.body.classList.add("keyless");
  } else if (code === PROGRAM_ENDED || over) {
    camera.stop();
    const where = about && about.folder ? ` The logs are in ${about.folder}.` : "";
    say("link", `The program has ended.${where} For another session start fer live --web again and open the address `
      + "that it prints.", 0, true);
    document.body.classList.add("closed");
  } else {
    say("link", "The connection was lost. Trying again; if this lasts, check that fer live --web still runs in its "
      + "terminal and that the tunnel is open.");
    setTimeout(connect, retry);
    retry = Math.min(2 * retry, RETRY_MS);
  }
}

function ask(command) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(command));
}

function sendPicture(blob) {
  if (!socket || socket.readyState !== WebSocket.OPEN || over) return false;
  socket.send(blob);
  return true;
}

function receive(message) {
  if (message.hello) greet(message.hello);
  if (message.state) show(message.state);
  if (message.setting) showSetting(message.setting);
  if (message.ack) camera.answered();
  if (message.error) say("error", message.error, 8);
  if (message.over) showOver(message.over);
}

function greet(hello) {
  retry = 500;
  say("link", "");
  $("link").textContent = "Connected";
  $("link").className = "pill good";
  if (!about) build(hello);
  about = hello;
  over = hello.phase === "over";
  $("end").disabled = over;
  $("about").textContent = [hello.name, hello.model && `model ${hello.model}`].filter(Boolean).join(" · ");
  const recorded = hello.record && hello.record !== "none";
  $("privacy").textContent = recorded ? `● Recording pictures to ${hello.folder}` : "Pictures are not stored";
  $("privacy").className = recorded ? "pill bad" : "pill";
  camera.connected(hello.size);
  showCamera();
}

// ---- the camera

function showCamera() {
  const own = about !== null && about.from_browser && !over && socket !== null;
  $("video").hidden = !camera.running;
  $("preview").hidden = about === null || about.from_browser;
  $("start").hidden = !own || camera.running;
  $("mirror-row").hidden = !own;
  $("empty").hidden = camera.running || (!own && state !== null);
  $("video").classList.toggle("mirrored", $("mirror").checked);
  if (own) {
    $("empty-text").textContent = about.camera_taken
      ? "Another page is this session's camera; here you can watch."
      : "The picture goes to the program on its machine only" + ($("privacy").classList.contains("bad")
        ? ", which records it." : " and is not stored.");
  } else if (about !== null) {
    $("empty-text").textContent = socket === null ? "Not connected" : "Waiting for the first picture";
  }
}

async function startCamera(device) {
  $("start").disabled = true;
  try {
    chosen = await camera.start(device) || "";
    say("camera", "");
    const found = await cameras();
    $("devices").replaceChildren(...found.map((d) => element("option", { value: d.id, textContent: d.name })));
    $("devices").value = chosen;
    $("devices-row").hidden = found.length < 2;
  } catch (error) {
    camera.stop();
    say("camera", error.message);
  }
  $("start").disabled = false;
  showCamera();
}

async function showPreview(blob) {
  const picture = await createImageBitmap(blob);
  const canvas = $("preview");
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    Object.assign(canvas, { width: picture.width, height: picture.height });
    shape(picture.width, picture.height);
  }
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
}

function shape(width, height) {
  if (!width || !height) return;
  $("frame").style.aspectRatio = `${width} / ${height}`;
}

// ---- what is shown of a frame

function colourOf(label) {
  return label >= 0 ? about.colours[label] : about.beside[label];
}

function show(now) {
  const first = state === null;
  state = now;
  seen = performance.now();
  timeline.add(now);
  if (first) showCamera();
  if (!painting) requestAnimationFrame(paint);
  painting = true;
}

function paint() {
  painting = false;
  const { probs, smoothed } = state;
  $("shown").textContent = smoothed ? state.text : "No face";
  $("shown").style.setProperty("--class", smoothed ? colourOf(state.label) : "var(--line)");
  const { vote_window: window, vote_min_count: needed } = state.setting.smoothing;
  $("votes").textContent = smoothed ? `${state.votes} of ${window} frames agree, ${needed} needed${state.note && `; ${state.note}`}` : "\u00a0";
  const top = smoothed ? smoothed.indexOf(Math.max(...smoothed)) : -1;
  rows.forEach((row, k) => {
    row.item.className = k === top ? "top" : "";
    row.fill.style.width = `${100 * (smoothed ? smoothed[k] : 0)}%`;
    row.raw.hidden = !probs;
    if (probs) row.raw.style.left = `${100 * probs[k]}%`;
    row.number.textContent = smoothed ? `${Math.round(100 * smoothed[k])} %` : "–";
  });
  const facts = { "Frames/s": state.fps.toFixed(1), Latency: `${state.latency_ms.toFixed(0)} ms`, Frame: state.index,
    Time: `${state.time.toFixed(1)} s`, Dropped: state.dropped, "Not drawn": state.skipped };
  $("stats").replaceChildren(...Object.entries(facts).flatMap(
    ([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })]));
  paintBoxes();
  timeline.draw();
  speak(smoothed ? state.text : "No face");
}

function paintBoxes() {
  const shown = state && setting && setting.overlay && performance.now() - seen < STALE_MS && !over ? state : null;
  if (about) drawOverlay($("overlay"), shown, colourOf, about.from_browser && $("mirror").checked);
}

// A reader is told of another label, but not more often than it can be listened to.
function speak(text) {
  if (text === spoken.text || spoken.timer) return;
  spoken.timer = setTimeout(() => {
    spoken = { text: $("shown").textContent, at: performance.now(), timer: 0 };
    const share = state.label >= 0 && state.smoothed ? `, ${Math.round(100 * confidence(state))} percent` : "";
    $("spoken").textContent = spoken.text.replace(/[()]/g, "") + share;
  }, Math.max(0, spoken.at + SPEAK_MS - performance.now()));
}

// ---- what a person sets

function build(hello) {
  about = hello;
  timeline = new Timeline($("timeline"), hello.classes, colourOf);
  hello.classes.forEach((name, k) => {
    const button = element("button", { type: "button", onclick: () => ask({ label: setting && setting.label === k ? -1 : k }) },
      element("kbd", { textContent: k + 1 }), element("span", { className: "name", textContent: name }));
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-keyshortcuts", k + 1);
    button.style.setProperty("--class", hello.colours[k]);
    labels.push(button);
    const fill = element("div", { className: "fill" }), raw = element("div", { className: "raw", hidden: true });
    const number = element("span", { className: "number", textContent: "–" });
    const item = element("li", {}, element("span", { textContent: name }), element("div", { className: "track" }, fill, raw), number);
    item.style.setProperty("--class", hello.colours[k]);
    rows.push({ item, fill, raw, number });
  });
  const clear = element("button", { type: "button", onclick: () => ask({ label: -1 }) },
    element("kbd", { textContent: "c" }), element("span", { textContent: "None" }));
  clear.setAttribute("aria-keyshortcuts", "c");
  $("labels").replaceChildren(...labels, clear);
  $("bars").replaceChildren(...rows.map((row) => row.item));
  $("sliders").replaceChildren(...Object.entries(SLIDERS).map(([name, words]) => slider(name, ...words, hello.ranges[name])));
  $("keys").replaceChildren(...hello.keys.flatMap(
    ([keys, what]) => [element("dt", {}, element("kbd", { textContent: keys })), element("dd", { textContent: what })]));
  timeline.draw();
}

function slider(name, words, keys, range) {
  const whole = Number.isInteger(range.step);
  const input = element("input", { type: "range", id: name, min: range.low, max: range.high, step: whole ? 1 : 0.01 });
  const output = element("output", { textContent: "–" });
  output.htmlFor = name;
  input.setAttribute("aria-keyshortcuts", keys);
  input.oninput = () => {
    sliders[name].held = performance.now();
    output.textContent = spelled(input.value, whole);
    ask({ smoothing: { [name]: Number(input.value) } });
  };
  sliders[name] = { input, output, whole, held: -HOLD_MS };
  const label = element("label", { htmlFor: name }, `${words} `,
    ...keys.split(" ").map((k) => element("kbd", { textContent: k })));
  return element("div", { className: "slider" }, label, output, input);
}

function spelled(value, whole) {
  return whole ? String(value) : Number(value).toFixed(2);
}

function showSetting(now) {
  setting = now;
  labels.forEach((button, k) => button.setAttribute("aria-pressed", String(k === now.label)));
  $("overlay-on").checked = now.overlay;
  for (const [name, { input, output, whole, held }] of Object.entries(sliders)) {
    if (performance.now() - held < HOLD_MS) continue; // the hand is on it, and knows better
    input.value = now.smoothing[name];
    output.textContent = spelled(now.smoothing[name], whole);
  }
  const { vote_window: window, vote_min_count: needed } = now.smoothing;
  $("slider-hint").hidden = needed <= window;
  $("slider-hint").textContent = `${needed} votes out of ${window} frames are impossible: the label stays unstable.`;
  paintBoxes();
}

function pressed(event) {
  const modified = (event.ctrlKey || event.altKey || event.metaKey) && !event.getModifierState("AltGraph");
  if (modified || over || !setting || $("ask").open || !$("shortcuts").checked || event.target.tagName === "SELECT") return;
  const pressedKey = event.key.length === 1 ? event.key.toLowerCase() : ""; // whatever Caps Lock is
  if (pressedKey === "q") {
    $("ask").showModal();
  } else if (pressedKey && "1234567co[]-=vbnm".includes(pressedKey)) {
    ask({ key: pressedKey });
  } else {
    return;
  }
  event.preventDefault();
}

// ---- the end

function showOver({ facts, files, error }) {
  over = true;
  document.body.classList.add("ended");
  camera.stop();
  if ($("ask").open) $("ask").close();
  $("end").disabled = true;
  showCamera();
  paintBoxes();
  $("over-title").textContent = error ? "The session failed" : "The session has ended";
  $("over-error").hidden = !error;
  $("over-error").textContent = error;
  $("over-facts").replaceChildren(...[...facts, ["Logs", about.folder]].flatMap(
    ([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })]));
  const links = files.map(({ name, bytes }) => link(name, `${name} (${size(bytes)})`));
  if (links.length) links.unshift(link("logs.zip", "All logs in one file (.zip)"));
  $("over-files").replaceChildren(...links.map((a, i) => element("li", { className: i ? "" : "first" }, a)));
  $("over").hidden = false;
  $("over").focus();
  timeline.draw();
}

function link(name, text) {
  return element("a", { href: `files/${name}?token=${encodeURIComponent(key)}`, download: name, textContent: text });
}

function size(bytes) {
  return bytes < 1e3 ? `${bytes} B` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

// not as a link: what stands after # is the key
document.querySelector(".skip").onclick = (event) => { event.preventDefault(); (labels[0] || $("start")).focus(); };
$("start").onclick = () => startCamera(chosen);
$("devices").onchange = () => startCamera($("devices").value);
$("video").onresize = () => shape(...(camera.size || [$("video").videoWidth, $("video").videoHeight]));
$("mirror").onchange = () => { showCamera(); paintBoxes(); };
$("overlay-on").onchange = () => ask({ overlay: $("overlay-on").checked });
$("end").onclick = () => $("ask").showModal();
$("ask-no").onclick = () => $("ask").close();
$("ask-yes").onclick = () => { $("ask").close(); ask({ end: true }); };
$("close").onclick = () => ask({ close: true });
document.addEventListener("keydown", pressed);
window.addEventListener("resize", () => { paintBoxes(); if (timeline) timeline.draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (timeline) timeline.draw(); });
setInterval(paintBoxes, 500);
connect();
