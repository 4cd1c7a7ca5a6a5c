// The test page: one WebSocket, its session, and a log of what passes over it.
// Whatever comes from the network becomes text (textContent), never markup.

const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------------------------------------------------------- log

const LOG_LIMIT = 500;
const SHOWN_LIMIT = 2000;
const log = $('log');
let entries = [];
let following = true;
let ownScroll = -1;
let ownSize = '';

/** Adds a line: `direction` is in, out or here; `kind` is message, heartbeat, error, bye, close, open or note. */
function note(direction, kind, text, detail = '') {
  const now = new Date();
  const pad = (number, length) => String(number).padStart(length, '0');
  const clock = [now.getHours(), now.getMinutes(), now.getSeconds()].map((part) => pad(part, 2)).join(':');
  const shown = text.length > SHOWN_LIMIT ? `${text.slice(0, SHOWN_LIMIT)}… (${text.length} characters)` : text;

  const line = document.createElement('li');
  line.className = 'entry';
  line.dataset.kind = kind;
  line.dataset.direction = direction;
  const part = (tag, name, content) => {
    const element = document.createElement(tag);
    element.className = name;
    element.textContent = content;
    line.append(element);
    return element;
  };
  part('time', 'at', `${clock}.${pad(now.getMilliseconds(), 3)}`).dateTime = now.toISOString();
  const arrow = part('span', 'direction', { in: '↓', out: '↑', here: '·' }[direction]);
  arrow.role = 'img';
  arrow.ariaLabel = { in: 'received', out: 'sent', here: 'here' }[direction];
  part('span', 'kind', kind);
  part('span', 'text', shown);
  part('span', 'detail', detail);

  if (entries.length === 0) schedule(showEntries);
  entries.push(line);
  if (entries.length > LOG_LIMIT) entries.shift();
}

/** All lines of one frame enter the page at once, so that a burst costs one layout. */
function showEntries() {
  log.append(...entries);
  entries = [];
  while (log.childElementCount > LOG_LIMIT) log.firstElementChild.remove();
  if (following) toNewest();
}

/** Frames do not come to a page that nobody sees. */
function schedule(task) {
  if (document.hidden) setTimeout(task, 100);
  else requestAnimationFrame(task);
}

function toNewest() {
  log.scrollTop = log.scrollHeight;
  ownScroll = log.scrollTop;
  ownSize = size();
  follow(true);
}

function size() {
  return `${log.clientWidth} × ${log.clientHeight}`;
}

function follow(on) {
  following = on;
  $('newest').hidden = on;
}

log.addEventListener('scroll', () => {
  if (Math.abs(log.scrollTop - ownScroll) <= 1) return;
  // Moved by the layout and not by hand: the keyboard of a phone came or went, or the phone was turned.
  if (following && size() !== ownSize) return toNewest();
  ownScroll = -1;
  follow(log.scrollHeight - log.scrollTop - log.clientHeight < 8);
});
new ResizeObserver(() => following && toNewest()).observe(log);
$('newest').addEventListener('click', toNewest);
$('clear').addEventListener('click', () => {
  entries = [];
  log.replaceChildren();
  follow(true);
});

// ------------------------------------------------------------------------------------------------------------ session

/** What the server takes as a token: not the text of a missing value, and nothing that URLs lose. */
const TOKEN = /^(?!(?:null|undefined|nan|none|nil|\.|\.\.)$)[a-z0-9._-]{1,64}$/i;
let session = { id: '', count: 0 };

/** crypto.randomUUID is there in secure contexts only; http://some-host:8000 is none. */
function randomUuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

function setSession(id, count) {
  session = { id, count };
  $('session').textContent = id;
  $('count').textContent = count;
  try {
    localStorage.setItem('baton.session', JSON.stringify(session));
  } catch {
    // Without storage the session lasts as long as the page.
  }
}

/** From ?session_uuid= of this page, from the last visit, or new. */
function restoreSession() {
  let last = {};
  try {
    last = JSON.parse(localStorage.getItem('baton.session')) ?? {};
  } catch {
    // No storage, or not ours.
  }
  const known = TOKEN.test(last.id ?? '') && Number.isSafeInteger(last.count);
  const asked = new URLSearchParams(location.search).get('session_uuid') ?? '';
  if (TOKEN.test(asked)) setSession(asked, known && last.id === asked ? last.count : 0);
  else if (known) setSession(last.id, last.count);
  else setSession(randomUuid(), 0);
}

async function copySession() {
  try {
    await navigator.clipboard.writeText(session.id);
  } catch {
    // No clipboard outside of secure contexts: the old way.
    getSelection().selectAllChildren($('session'));
    document.execCommand('copy');
  }
  $('copy').textContent = 'copied';
  setTimeout(() => ($('copy').textContent = 'copy'), 1500);
}

$('copy').addEventListener('click', copySession);
$('new-session').addEventListener('click', () => {
  setSession(randomUuid(), 0);
  note('here', 'note', `new session ${session.id}`);
  if (socket) connect();
});

// --------------------------------------------------------------------------------------------------------- connection

const LABELS = {
  disconnected: 'Connect',
  connecting: 'Cancel',
  connected: 'Disconnect',
  disconnecting: 'Disconnect',
  reconnecting: 'Cancel',
};

/** What close codes mean here, and whether coming back makes sense. */
const CLOSES = {
  1000: ['done', false],
  1001: ['the server goes away', true],
  1002: ['protocol error', false],
  1003: ['unsupported data', false],
  1005: ['closed without a code', false],
  1006: ['no answer, refused, or cut off', true],
  1007: ['not valid UTF-8', false],
  1008: ['over a limit', false],
  1009: ['message too big', false],
  1013: ['try again later', true],
};

let socket = null;
let sentAt = []; // One for each message whose reply is still to come: replies keep the order of their messages.
let failures = 0;
let waiting = null; // While reconnecting: when, and the timer.

function show(state) {
  document.body.dataset.state = state;
  $('state').textContent = state;
  $('connect').textContent = LABELS[state];
  $('connect').disabled = state === 'disconnecting';
  for (const button of document.querySelectorAll('#composer button')) button.disabled = state !== 'connected';
}

function showUnanswered() {
  $('unanswered').textContent = sentAt.length;
}

function connect() {
  abandon();
  let url;
  try {
    url = new URL($('address').value);
    url.searchParams.set('session_uuid', session.id);
    socket = new WebSocket(url);
  } catch (error) {
    note('here', 'error', error.message);
    show('disconnected');
    return;
  }
  socket.binaryType = 'arraybuffer';
  show('connecting');
  // An event of a socket that was abandoned says nothing about the one in use.
  const ours = socket;
  const on = (name, act) => ours.addEventListener(name, (event) => ours === socket && act(event));
  on('open', () => {
    failures = 0;
    note('here', 'open', `${url.origin}${url.pathname}`, 'connected');
    show('connected');
  });
  on('message', (event) => receive(event.data));
  on('close', closed);
}

/** Forgets the socket and the reconnect, if there are any. */
function abandon() {
  if (waiting) clearInterval(waiting.timer);
  waiting = null;
  $('countdown').hidden = $('retry').hidden = true;
  if (socket?.readyState === WebSocket.OPEN) note('out', 'close', '1000', 'left by this page');
  socket?.close(1000);
  socket = null;
  sentAt = [];
  showUnanswered();
}

function disconnect() {
  if (socket?.readyState === WebSocket.OPEN) {
    show('disconnecting');
    socket.close(1000);
  } else {
    abandon();
    show('disconnected');
  }
}

function closed({ code, reason }) {
  const [meaning, comesBack] = CLOSES[code] ?? ['', false];
  const asked = document.body.dataset.state === 'disconnecting';
  note('in', 'close', reason ? `${code} ${reason}` : String(code), meaning);
  if (comesBack && sentAt.length > 0) {
    note('here', 'note', `${sentAt.length} without a reply: the next count tells whether they were counted`);
  }
  abandon();
  if (comesBack && !asked && $('reconnect').checked) reconnectIn(delay(reason));
  else show('disconnected');
}

/** The server's hint (`retry_ms=1834`), else longer and longer, with jitter so that clients do not come as a herd. */
function delay(reason) {
  const hint = /\bretry_ms=(\d{1,7})\b/.exec(reason);
  const base = Math.min(500 * 2 ** failures, 15_000);
  failures += 1;
  return hint ? Number(hint[1]) : base / 2 + Math.random() * base / 2;
}

function reconnectIn(milliseconds) {
  const at = performance.now() + milliseconds;
  const tick = () => {
    const left = at - performance.now();
    if (left <= 0) connect();
    else $('countdown').textContent = `in ${(left / 1000).toFixed(1)} s`;
  };
  waiting = { timer: setInterval(tick, 100) };
  tick();
  $('countdown').hidden = $('retry').hidden = false;
  show('reconnecting');
}

$('connect').addEventListener('click', () => (socket || waiting ? disconnect() : connect()));
$('retry').addEventListener('click', connect);
$('reconnect').addEventListener('change', () => waiting && !$('reconnect').checked && disconnect());

// ----------------------------------------------------------------------------------------------------------- messages

function receive(data) {
  if (typeof data !== 'string') return note('in', 'message', `binary, ${data.byteLength} bytes`);
  let value = null;
  try {
    value = JSON.parse(data);
  } catch {
    // Any text may come; it is shown as it is.
  }
  if (Number.isSafeInteger(value?.count)) {
    setSession(session.id, value.count);
    note('in', 'message', data, answered());
  } else if (typeof value?.error === 'string') {
    note('in', 'error', data, answered());
  } else if (value?.bye === true) {
    if (Number.isSafeInteger(value.total)) setSession(session.id, value.total);
    note('in', 'bye', data);
  } else if (typeof value?.ts === 'string') {
    $('heartbeat').textContent = value.ts;
    note('in', 'heartbeat', data);
  } else {
    note('in', 'message', data);
  }
}

/** The oldest message that waits has its reply; returns how long that took. */
function answered() {
  const at = sentAt.shift();
  showUnanswered();
  if (at === undefined) return '';
  const milliseconds = performance.now() - at;
  const took = `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
  $('rtt').textContent = took;
  return took;
}

function send(data) {
  if (socket?.readyState !== WebSocket.OPEN) {
    note('here', 'error', 'not connected: nothing was sent');
    return false;
  }
  socket.send(data);
  sentAt.push(performance.now());
  showUnanswered();
  note('out', 'message', typeof data === 'string' ? data : `binary, ${data.byteLength} bytes`);
  return true;
}

$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const input = $('input');
  if (input.value !== '' && send(input.value)) input.value = '';
  input.focus();
});
$('example-text').addEventListener('click', () => send('hello'));
$('example-json').addEventListener('click', () => send('{"type":"greeting","text":"hello"}'));
$('example-invalid').addEventListener('click', () => send('{"type":'));
$('example-burst').addEventListener('click', () => {
  for (let n = 1; n <= 100; n += 1) send(`burst ${n}`);
});
$('example-binary').addEventListener('click', () => send(new Uint8Array([1, 2, 3])));

// -------------------------------------------------------------------------------------------------------------- start

const here = new URL('../ws/chat/', location.href);
here.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
here.search = here.hash = '';
const configured = `${document.body.dataset.wsBaseUrl}/ws/chat/`;

function dial(address) {
  $('address').value = address;
  if (socket) connect();
}

$('address-here').addEventListener('click', () => dial(here.href));
$('address-configured').addEventListener('click', () => dial(configured));
$('address-configured').title = configured;
$('address').value = here.href;
$('settings').open = matchMedia('(min-width: 50rem)').matches;
restoreSession();
show('disconnected');
