// What the status page says, in two languages. The relay's own sentences come in English; for
// Chinese they are made here from the facts that come with them.

const EN = {
  title: "Status",
  looking: "Looking…",
  relay: "Relay",
  proxies: "Proxies",
  upstreams: "Upstreams",
  streams: "Open streams",
  quarter: "the last 15 minutes",
  per_minute: "Streams that ended, a minute",
  per_second: "Events a second",
  ago15: "15 min ago",
  now: "now",
  success: "Went well",
  first_token: "First token",
  gap: "Between events",
  key_label: "This relay needs its key",
  key_send: "Look",
  key_note: "It is kept for this tab only.",
  key_wrong: "That is none of its keys",
  key_needed: "Whose status? Show a key",
  lost: "The relay does not answer",
  lost_detail: "What is below is what it said last. Trying again…",
  lost_before: "Is it running? Trying again…",
  fault_nobody: "",
  fault_relay: "The relay's fault",
  fault_proxy: "The proxy's fault",
  fault_upstream: "The upstream's fault",
  works: "works",
  look_here: "has a fault",
  direct: "direct",
  of: "{0} of {1} work",
  up: "up",
  up_for: "up for {0}",
  untried: "not tried yet",
  failing: "failing",
  down_for: "down for {0}",
  again_in: "tried again in {0}",
  probed: "probed until it is back",
  dials: "Connect times of the last {0} dials; {1} failed",
  no_dials: "No dial yet",
  open_here: "{0} open",
  attempts: "{0} attempts",
  failed: "{0} failed",
  policy_ordered: "in this order",
  policy_fastest: "the fastest first",
  policy_spread: "spread",
  circuit_open: "not asked for {0}",
  circuit_trial: "tried with the next request",
  in_trouble: "trouble",
  in_a_row: "failed {0} times in a row",
  traffic: "{0} streams open · {1} ended in the last 15 minutes",
  fine: "fine",
  no_streams: "nothing yet",
  of_streams: "of {0}",
  p95: "95 %: {0}",
  top: "most {0}",
  s_ok: "complete",
  s_left: "left or stopped",
  s_refused: "refused",
  s_failed: "failed",
  o_cut: "cut",
  o_stalled: "stalled",
  o_error: "error",
  o_too_long: "too long",
  bars: "Streams that ended in each of the last 15 minutes: {0} in all, {1} failed",
  line: "Events a second in the last 15 minutes: {0} now, {1} at most",
  dial: "connecting",
  headers: "waiting for an answer",
  first_token_stage: "waiting for the first token",
  stream: "streaming",
  quiet: "nothing for {0}",
  took: "{0} · {1} events",
  first: "first token {0}",
  none_open: "None.",
  others: "{0} more of others; the oldest has run for {1}",
  more_own: "{0} more of yours",
  stop: "Stop",
  stopping: "Stopping…",
  stopped: "Stopped.",
  not_stopped: "Not stopped: {0}",
  uptime: "{0}, running for {1}",
  s: "s",
  min: "min",
  h: "h",
  d: "d",
};

const ZH = {
  title: "状态",
  looking: "正在查看…",
  relay: "中继",
  proxies: "代理",
  upstreams: "上游",
  streams: "进行中的流",
  quarter: "最近 15 分钟",
  per_minute: "每分钟结束的流",
  per_second: "每秒事件数",
  ago15: "15 分钟前",
  now: "现在",
  success: "成功",
  first_token: "首个词元",
  gap: "事件间隔",
  key_label: "此中继需要密钥",
  key_send: "查看",
  key_note: "只在本标签页内保存。",
  key_wrong: "密钥不正确",
  key_needed: "请先出示密钥",
  lost: "中继没有响应",
  lost_detail: "下面是它最后一次的状态。正在重试…",
  lost_before: "它在运行吗？正在重试…",
  fault_nobody: "",
  fault_relay: "问题在中继",
  fault_proxy: "问题在代理",
  fault_upstream: "问题在上游",
  works: "正常",
  look_here: "有问题",
  direct: "直连",
  of: "{0} / {1} 正常",
  up: "正常",
  up_for: "已正常 {0}",
  untried: "尚未使用",
  failing: "连接失败",
  down_for: "已中断 {0}",
  again_in: "{0}后重试",
  probed: "持续探测，直到恢复",
  dials: "最近 {0} 次连接的耗时；{1} 次失败",
  no_dials: "尚无连接",
  open_here: "{0} 个进行中",
  attempts: "{0} 次尝试",
  failed: "{0} 次失败",
  policy_ordered: "按此顺序",
  policy_fastest: "最快优先",
  policy_spread: "分散",
  circuit_open: "{0}内不再请求",
  circuit_trial: "下一个请求会试一次",
  in_trouble: "有问题",
  in_a_row: "连续失败 {0} 次",
  traffic: "{0} 个流进行中 · 最近 15 分钟结束 {1} 个",
  fine: "正常",
  no_streams: "暂无",
  of_streams: "共 {0} 个",
  p95: "95%：{0}",
  top: "最高 {0}",
  s_ok: "完整",
  s_left: "离开或停止",
  s_refused: "被拒绝",
  s_failed: "失败",
  o_cut: "中断",
  o_stalled: "停滞",
  o_error: "错误",
  o_too_long: "超时",
  bars: "最近 15 分钟每分钟结束的流：共 {0} 个，失败 {1} 个",
  line: "最近 15 分钟每秒事件数：现在 {0}，最高 {1}",
  dial: "正在连接",
  headers: "等待响应",
  first_token_stage: "等待首个词元",
  stream: "正在传输",
  quiet: "已静默 {0}",
  took: "{0} · {1} 个事件",
  first: "首个词元 {0}",
  none_open: "没有。",
  others: "另有 {0} 个属于其他人；最早的已持续 {1}",
  more_own: "你还有 {0} 个",
  stop: "停止",
  stopping: "正在停止…",
  stopped: "已停止。",
  not_stopped: "未能停止：{0}",
  uptime: "{0}，已运行 {1}",
  s: "秒",
  min: "分",
  h: "小时",
  d: "天",
};

const WHY = {
  proxy_unreachable: "无法连接",
  proxy_timeout: "连接超时",
  proxy_refused: "拒绝：登录信息或规则",
  proxy_protocol: "不是这种类型的代理",
  upstream_unreachable: "无法连接",
  upstream_tls: "TLS 握手失败：证书或协议",
  upstream_malformed: "返回了意料之外的内容",
  upstream_cut: "中途断开了流",
  upstream_stalled: "中途停了下来",
  upstream_timeout_headers: "没有及时响应",
  upstream_timeout_first_token: "没有及时给出内容",
};
const HINTS = {
  401: "密钥正确吗？",
  402: "是否欠费？",
  403: "密钥，或请求来自的地区",
  429: "请求过多，或额度用完",
};

// A finding's kind ─▶ its sentence in Chinese, made of its facts.
const FINDINGS = {
  ready: () => "就绪：还没有任何请求",
  fine: () => "一切正常",
  draining: ({ open }) => `中继正在关闭；还有 ${open} 个流可以完成`,
  full: ({ open }) => `中继已满：已有 ${open} 个流，达到 limits.streams 的上限`,
  late: ({ ms }) => `中继过载：事件循环慢了 ${ms} 毫秒`,
  fault: ({ count }) => `中继自身出错，影响了 ${count} 个流`,
  way: (facts) => `${proxy(facts)}；其余 ${facts.others} 个照常工作`,
  no_way: (facts) => `${proxy(facts)}：无法到达 ${facts.upstreams.join("、")}`,
  upstream: (facts) => `上游 ${facts.upstream} ${trouble(facts)}${instead(facts)}`,
  flaky: ({ upstream, failed, counted }) =>
    `上游 ${upstream} 经常出错：最近 15 分钟 ${counted} 个流中有 ${failed} 个失败`,
};

function proxy({ proxy: address, count, down, code }) {
  const what = down ? "已中断" : "连接失败";
  if (count > 1) return `${count} 个代理${what}`;
  return `代理 ${address} ${what}${WHY[code] ? `（${WHY[code]}）` : ""}`;
}

function trouble({ code, status }) {
  if (status === null) return WHY[code] ?? code;
  return `返回 ${status}${HINTS[status] ? `（${HINTS[status]}）` : ""}`;
}

function instead({ fallbacks }) {
  return fallbacks.length ? `；由 ${fallbacks.join("、")} 代替` : "";
}

const WORDS = { en: EN, "zh-CN": ZH };
let language = "en";

/** Speak `en` or `zh-CN` from now on. */
export function speak(chosen) {
  language = chosen;
}

/** Return a text; {0}, {1} are replaced by the values. */
export function say(name, ...values) {
  return WORDS[language][name].replace(/\{(\d)\}/g, (_, n) => values[n]);
}

/** Return what a finding says. */
export function told({ kind, text, facts }) {
  const chinese = language === "zh-CN" && FINDINGS[kind];
  return chinese ? chinese(facts) : text;
}

/** Return seconds as people say them: 4 s, 3 min 20 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds) {
  const whole = Math.floor(seconds);
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = Math.max(0, units.findIndex(([, size]) => whole >= size));
  if (whole < 1) return `${whole} ${say("s")}`;
  return units
    .slice(first, first + 2)
    .map(([unit, size], n) => [Math.floor((n ? whole % units[first][1] : whole) / size), unit])
    .filter(([count]) => count)
    .map(([count, unit]) => `${count} ${say(unit)}`)
    .join(" ");
}

/** Return a time that is measured: 0.4 ms, 24 ms, 1.3 s; – for none. */
export function measured(seconds) {
  if (seconds == null) return "–";
  const ms = seconds * 1000;
  if (ms >= 1000) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
