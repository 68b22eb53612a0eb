// Types what GET /chat sends. The page's own query goes along: /?model=demo-thinking&delay_ms=100

const EN = {
  connecting: "Connecting…",
  writing: "Writing…",
  again: "The line dropped; connecting again…",
  stopped: "Stopped.",
  tokens: "tokens",
  first: "first token",
  refused: "No answer: the relay refused the request or cannot be reached. Is it running?",
  lost: "The line was lost before the answer ended. The text above is incomplete.",
};
const ZH = {
  claim: "大语言模型的回答，边写边看。",
  label: "你的问题",
  hint: "回车发送，Shift+回车换行，Esc 停止。",
  ask: "提问",
  stop: "停止",
  answer: "回答",
  reasoning: "思考过程",
  connecting: "正在连接…",
  writing: "正在回答…",
  again: "连接中断，正在重连…",
  stopped: "已停止。",
  tokens: "个词元",
  first: "首个词元",
  refused: "没有得到回答：服务拒绝了请求，或者无法连接。它在运行吗？",
  lost: "回答还没结束，连接就断开了。以上内容不完整。",
};
const chinese = navigator.language.toLowerCase().startsWith("zh");
const say = chinese ? ZH : EN;
const part = Object.fromEntries([...document.querySelectorAll("[id]")].map((e) => [e.id, e]));
const written = ["reasoning", "answer", "tools"].map((id) => part[id]);
let source = null; // the open EventSource; null when nothing is being written

function ask() {
  for (const e of written) e.textContent = "";
  part.thinking.hidden = true;
  const query = new URLSearchParams(location.search);
  query.set("question", part.question.value);
  source = new EventSource(`chat?${query}`);
  on("start", () => show(say.writing));
  on("reasoning", ({ content }) => type(part.reasoning, content));
  on("answer", ({ content }) => type(part.answer, content));
  on("tool_calls", (event) => type(part.tools, `${JSON.stringify(event.tool_calls)}\n`));
  on("done", (event) => end(summary(event)));
  on("error", ({ message, code }) => end("", `${message} (${code})`));
  source.onerror = lost;
  busy(true);
  show(say.connecting);
}

function on(name, act) {
  source.addEventListener(name, (event) => event.data && act(JSON.parse(event.data)));
}

// The browser's own `error` has no data: the line is gone, and the browser may try it again.
function lost(event) {
  if (event.data) return;
  if (source.readyState === EventSource.CONNECTING) show(say.again);
  else end("", written.some((e) => e.textContent) ? say.lost : say.refused);
}

// Text only, never HTML; the page follows the writing unless the reader has scrolled away.
function type(element, text) {
  const page = document.documentElement;
  const follows = page.scrollHeight - page.clientHeight - page.scrollTop < 80;
  if (!element.firstChild) element.append("");
  element.firstChild.appendData(text);
  if (element === part.reasoning) part.thinking.hidden = false;
  if (follows) page.scrollTop = page.scrollHeight;
}

function summary({ model, usage, first_token_ms, elapsed_ms, finish_reason }) {
  const tokens = usage && `${usage.completion_tokens} ${say.tokens}`;
  const first = first_token_ms != null && `${say.first} ${Math.round(first_token_ms)} ms`;
  const ending = finish_reason !== "stop" && finish_reason;
  const took = `${(elapsed_ms / 1000).toFixed(1)} s`;
  return [model, tokens, first, took, ending].filter(Boolean).join(" · ");
}

// Closed by hand, or the browser would connect again and again.
function end(status, problem = "") {
  source.close();
  source = null;
  busy(false);
  show(status, problem);
}

function show(status, problem = "") {
  part.status.textContent = status;
  part.error.textContent = problem;
}

function busy(writing) {
  const focused = [part.ask, part.stop].includes(document.activeElement);
  part.paper.hidden = !writing && !written.some((e) => e.textContent);
  part.paper.ariaBusy = String(writing);
  part.ask.hidden = writing;
  part.stop.hidden = !writing;
  if (focused) (writing ? part.stop : part.ask).focus();
}

part.form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!source && part.question.value.trim()) ask();
});
part.stop.addEventListener("click", () => end(say.stopped));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && source) end(say.stopped);
});
part.question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.keyCode === 229) return; // 229: an input method's Enter
  event.preventDefault();
  part.form.requestSubmit();
});
if (chinese) {
  document.documentElement.lang = "zh-CN";
  for (const e of document.querySelectorAll("[data-text]")) e.textContent = ZH[e.dataset.text];
}
