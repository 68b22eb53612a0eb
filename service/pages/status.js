// Shows what /status/events tells, every second, as long as somebody looks at it.

import { GROUPS, bars, grouped, line, spark } from "./status-plots.js";
import { duration, measured, say, speak, told } from "./status-words.js";

const AGAIN = 2000; // milliseconds before a lost line is dialled again
const SILENCE = 10_000; // milliseconds without an event after which a line is lost
const LEVELS = ["ok", "warn", "bad"];
const part = Object.fromEntries([...document.querySelectorAll("[id]")].map((e) => [e.id, e]));
let watching = null; // the AbortController of the open stream
let last = null; // what was told last
let shown = null; // the headline, as a function, for when the language changes

// --- what is kept in the browser, under the names that the page at / uses

function kept(storage, name, value) {
  try {
    const place = globalThis[storage];
    if (value === undefined) return place.getItem(`teleprinter.${name}`) ?? "";
    if (value) place.setItem(`teleprinter.${name}`, value);
    else place.removeItem(`teleprinter.${name}`);
  } catch {
    // storage is forbidden: nothing is kept
  }
  return "";
}

let key = kept("sessionStorage", "key");

function headers() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

// --- watching

async function watch() {
  if (watching || document.hidden) return;
  const mine = new AbortController();
  watching = mine;
  try {
    const response = await fetch("status/events", {
      headers: headers(),
      signal: mine.signal,
      cache: "no-store",
    });
    if (response.status === 401) return askForKey();
    if (!response.ok) throw new Error(response.status);
    await follow(response.body.pipeThrough(new TextDecoderStream()).getReader(), mine);
  } catch {
    if (watching !== mine) return; // nobody looks any more
    headline(() => ({
      level: "bad",
      text: say("lost"),
      whose: say("fault_relay"),
      detail: last ? say("lost_detail") : say("lost_before"),
    }));
    part.board.ariaBusy = "true";
  } finally {
    if (watching === mine) watching = null;
  }
  setTimeout(watch, AGAIN);
}

// The relay sends each event as whole lines, `data:` in one of them, and a blank line. A line that
// is silent for longer than an event takes is dead, whether the browser has noticed or not.
async function follow(reader, mine) {
  let text = "";
  for (;;) {
    const silence = setTimeout(() => mine.abort(), SILENCE);
    const { value, done } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    const blocks = (text + value).split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split(/\r?\n/).find((row) => row.startsWith("data: "));
      if (data) show(JSON.parse(data.slice(6)));
    }
  }
}

function leave() {
  const left = watching;
  watching = null;
  left?.abort();
}

function askForKey() {
  const wrong = Boolean(key);
  key = "";
  kept("sessionStorage", "key", "");
  part.board.hidden = true;
  part.ask.hidden = false;
  part.key.focus();
  headline(() => ({ level: "wait", text: say(wrong ? "key_wrong" : "key_needed"), whose: "", detail: "" }));
}

// --- showing

function show(data) {
  last = data;
  part.ask.hidden = true;
  part.board.hidden = false;
  part.board.ariaBusy = "false";
  headline(() => {
    const [worst, ...also] = data.findings;
    const whose = say(`fault_${worst.whose}`);
    const detail = worst.kind === "fine" ? traffic(data) : worst.detail;
    return { level: worst.level, text: told(worst), whose, detail, also: also.map(told) };
  });
  details(data);
}

function traffic({ relay, rates: { minutes } }) {
  const ended = Object.values(minutes).flat().reduce((sum, each) => sum + each, 0);
  return say("traffic", relay.open, ended);
}

function details(data) {
  const { version, uptime } = data.relay;
  write(part.uptime, say("uptime", version, duration(uptime)));
  chain(data);
  ways(data);
  sync(part.upstreams, data.upstreams, (upstream) => upstream.name, "t_upstream", upstream_);
  rates(data.rates);
  streams(data.streams);
}

function headline(make) {
  shown = make;
  const { level, text, whose, detail, also = [] } = make();
  part.headline.dataset.level = level;
  delete part.verdict.dataset.text; // from now on it has a text of its own
  write(part.verdict, text);
  write(part.whose, whose);
  write(part.detail, detail);
  sync(part.also, also, (_, n) => n, null, (row, each) => write(row, each));
  document.title = `${{ ok: "✓", warn: "!", bad: "✕" }[level] ?? "…"} ${text} · Teleprinter`;
}

// Relay → proxies → upstreams: where on the way the fault lies.
function chain({ findings, pools, upstreams }) {
  const worst = (whose) =>
    Math.max(0, ...findings.filter((f) => f.whose === whose).map((f) => LEVELS.indexOf(f.level)));
  const all = pools.flatMap((pool) => pool.ways).filter((way) => way.address !== "direct");
  const good = (list, works) => say("of", list.filter(works).length, list.length);
  const link = (item, level, text) => {
    item.dataset.level = LEVELS[level];
    write(item.querySelector("span"), text);
  };
  link(part.c_relay, worst("relay"), say(worst("relay") ? "look_here" : "works"));
  link(part.c_proxy, worst("proxy"), all.length ? good(all, works) : say("direct"));
  link(part.c_upstream, worst("upstream"), good(upstreams, ({ name }) => !blamed(name)));
}

function works({ state }) {
  return state === "up" || state === "untried";
}

function blamed(name) {
  return last.findings.find((f) => f.whose === "upstream" && f.facts.upstream === name);
}

function ways({ pools }) {
  const rows = pools.flatMap((pool) => [
    ...(pools.length > 1 || pool.ways.length > 1 ? [{ pool }] : []),
    ...pool.ways.map((way) => ({ way, of: pool.name })),
  ]);
  const named = ({ pool, way, of }) => (pool ? `pool ${pool.name}` : `${of} ${way.proxy}`);
  sync(part.ways, rows, named, ({ pool }) => (pool ? null : "t_way"), (row, { pool, way }) => {
    if (!pool) return way_(row, way);
    row.className = "pool";
    write(row, `${pool.name} · ${say(`policy_${pool.policy}`)} → ${pool.upstreams.join(", ")}`);
  });
}

function way_(row, way) {
  row.dataset.level = { up: "ok", untried: "wait", failing: "warn", down: "bad" }[way.state];
  const failed = Object.entries(way.attempts).filter(([result]) => result !== "ok" && result !== "left");
  const attempts = Object.values(way.attempts).reduce((sum, count) => sum + count, 0);
  const lost = failed.reduce((sum, [, count]) => sum + count, 0);
  const misses = way.dials.filter((ms) => ms === null).length;
  const field = fields(row);
  write(field.address, way.address === "direct" ? say("direct") : way.address);
  write(field.kind, way.address === "direct" ? "" : way.proxy.split(":")[0]);
  write(field.state, standing(way));
  spark(field.dials, way.dials);
  field.dials.ariaLabel = way.dials.length ? say("dials", way.dials.length, misses) : say("no_dials");
  write(field.connect, way.connect_ms == null ? "–" : measured(way.connect_ms / 1000));
  write(field.counts, [
    say("open_here", way.open),
    say("attempts", attempts),
    lost && say("failed", lost),
  ].filter(Boolean).join(" · "));
  field.counts.title = failed.map(([code, count]) => `${code}: ${count}`).join("\n");
  write(field.said, way.said);
}

function standing({ state, since, rests }) {
  if (state === "up") return say("up_for", duration(since));
  if (state !== "down") return say(state);
  const then = rests ? say("again_in", duration(Math.ceil(rests))) : say("probed");
  return `${say("down_for", duration(since ?? 0))} · ${then}`;
}

function upstream_(row, upstream) {
  const finding = blamed(upstream.name);
  const field = fields(row);
  row.dataset.level = finding ? finding.level : upstream.success === null ? "wait" : "ok";
  write(field.name, upstream.name);
  write(field.host, upstream.host === upstream.name ? "" : upstream.host);
  write(field.state, circuit(upstream, finding));
  const counted = upstream.ok + upstream.failed;
  write(field.success, counted ? `${Math.floor(upstream.success * 1000) / 10} %` : "–");
  write(field.of, counted ? say("of_streams", counted) : "");
  const times = [["first", upstream.first_token], ["gap", upstream.gap]];
  for (const [name, { p50, p95 }] of times) {
    write(field[`${name}50`], measured(p50));
    write(field[`${name}95`], p95 == null ? "" : say("p95", measured(p95)));
  }
}

// Without a fallback it is asked all the same: its circuit changes nothing.
function circuit({ circuit: state, retry_in, success, fallbacks, failures }, finding) {
  if (state === "open" && fallbacks.length) {
    return retry_in ? say("circuit_open", duration(Math.ceil(retry_in))) : say("circuit_trial");
  }
  if (finding) return failures > 1 ? say("in_a_row", failures) : say("in_trouble");
  return success === null ? say("no_streams") : say("fine");
}

function rates({ minutes, events }) {
  const top = bars(part.bars, minutes);
  const sum = (row) => row.reduce((all, each) => all + each, 0);
  const totals = Object.fromEntries(Object.keys(GROUPS).map((group) => [group, sum(grouped(minutes, group))]));
  write(part.bars_top, top ? say("top", top) : "");
  part.bars.ariaLabel = say("bars", sum(Object.values(totals)), totals.failed);
  const rows = Object.keys(GROUPS).filter((group) => group === "ok" || totals[group]);
  sync(part.legend, rows, (group) => group, null, (row, group) => {
    row.className = `s_${group}`;
    const kinds = group !== "failed" ? [] : GROUPS.failed.filter((name) => minutes[name]);
    const split = kinds.map((name) => `${say(`o_${name}`)} ${sum(minutes[name])}`).join(", ");
    write(row, `${say(`s_${group}`)} ${totals[group]}${split && ` (${split})`}`);
  });
  const most = line(part.line, events);
  write(part.line_top, most ? say("top", round(most)) : "");
  part.line.ariaLabel = say("line", round(events.at(-1)), round(most));
}

function round(rate) {
  return rate < 10 ? Math.round(rate * 10) / 10 : Math.round(rate);
}

function streams({ open, own, shown: rows, oldest }) {
  write(part.open, String(open));
  sync(part.streams, rows, (stream) => stream.id, "t_stream", stream_);
  const others = open - own;
  const hidden = own - rows.length;
  write(part.others, [
    !open && say("none_open"),
    hidden && say("more_own", hidden),
    others && say("others", others, duration(oldest)),
  ].filter(Boolean).join(" · "));
}

function stream_(row, stream) {
  const field = fields(row);
  write(field.stage, say(stream.stage === "first_token" ? "first_token_stage" : stream.stage));
  write(field.quiet, stream.stage === "stream" && stream.quiet >= 5 ? say("quiet", duration(stream.quiet)) : "");
  const took = [say("took", duration(stream.age), stream.events)];
  if (stream.first_token_ms != null) took.push(say("first", measured(stream.first_token_ms / 1000)));
  write(field.took, took.join(" · "));
  const way = stream.proxy === "direct" ? "" : stream.proxy;
  const names = [stream.model, stream.upstream, way].filter(Boolean).join(" ← ");
  write(field.way, `${stream.caller} · ${names}`);
  write(field.stop, say(field.stop.disabled ? "stopping" : "stop"));
  field.stop.ariaLabel = `${field.stop.textContent} ${stream.model ?? ""}`;
  field.stop.onclick = () => stop(stream.id, field.stop);
}

async function stop(id, button) {
  button.disabled = true;
  write(button, say("stopping"));
  write(part.answer, "");
  try {
    const response = await fetch(`streams/${encodeURIComponent(id)}`, { method: "DELETE", headers: headers() });
    if (response.ok) return write(part.answer, say("stopped"));
    const { error } = await response.json().catch(() => ({}));
    refuse(error?.message ?? String(response.status));
  } catch {
    refuse(say("lost"));
  }
  function refuse(why) {
    button.disabled = false;
    write(button, say("stop"));
    write(part.answer, say("not_stopped", why));
  }
}

// --- elements

// Keep one child for each item, by its key: what has the focus keeps it.
function sync(list, items, keyOf, template, fill) {
  const old = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const rows = items.map((item, n) => {
    const name = String(keyOf(item, n));
    const row = old.get(name) ?? made(typeof template === "function" ? template(item) : template);
    old.delete(name);
    row.dataset.key = name;
    fill(row, item);
    return row;
  });
  for (const gone of old.values()) gone.remove();
  rows.forEach((row, n) => list.children[n] === row || list.insertBefore(row, list.children[n] ?? null));
}

function made(template) {
  if (!template) return document.createElement("li");
  const row = part[template].content.firstElementChild.cloneNode(true);
  translate(row);
  return row;
}

function fields(row) {
  return Object.fromEntries([...row.querySelectorAll("[data-f]")].map((e) => [e.dataset.f, e]));
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// --- language

function translate(root) {
  for (const e of root.querySelectorAll("[data-text]")) write(e, say(e.dataset.text));
}

function turnTo(language) {
  document.documentElement.lang = language;
  speak(language);
  part.language.lang = language === "en" ? "zh-CN" : "en";
  write(part.language, language === "en" ? "中文" : "English");
  translate(document);
  if (last) details(last);
  if (shown) headline(shown);
}

part.language.addEventListener("click", () => {
  const language = document.documentElement.lang === "en" ? "zh-CN" : "en";
  kept("localStorage", "language", language);
  turnTo(language);
});
part.ask.addEventListener("submit", (event) => {
  event.preventDefault();
  key = part.key.value.trim();
  part.key.value = "";
  kept("sessionStorage", "key", key);
  watch();
});
document.addEventListener("visibilitychange", () => (document.hidden ? leave() : watch()));

const theme = kept("localStorage", "theme");
if (theme) document.documentElement.dataset.theme = theme;
const wanted = kept("localStorage", "language") || navigator.language;
turnTo(wanted.toLowerCase().startsWith("zh") ? "zh-CN" : "en");
watch();
