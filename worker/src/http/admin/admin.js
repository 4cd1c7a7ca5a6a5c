// Makes the pages move; without it they do all but that.

const PERIOD = 1000; // ms between two looks
const KEPT = 120; // samples in a chart
const FRESH = 10_000; // ms for which what a page before has seen belongs to the same chart
const SHAPE = { width: 120, height: 36, margin: 2 };

const round = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat('en');

// What a button asks before it does something that cannot be undone.
for (const form of document.querySelectorAll('form[data-confirm]')) {
  form.addEventListener('submit', (event) => {
    if (!confirm(form.dataset.confirm)) event.preventDefault();
  });
}

for (const time of document.querySelectorAll('time[datetime]')) {
  const at = new Date(time.dateTime);
  if (Number.isNaN(at.valueOf())) continue;
  time.title = time.dateTime;
  time.textContent = at.toLocaleString();
}

if (document.querySelector('[data-chart]')) watch();

function watch() {
  const series = remembered() ?? { connections: [], messages: [], errors: [], latency: [] };
  let before, failing = false;
  const look = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch('/admin/live', { signal: AbortSignal.timeout(5000), redirect: 'error' });
      if (answer.status === 403) return location.assign('/admin/login');
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      const now = { at: performance.now(), ...(await answer.json()) };
      failing = false;
      showState(now);
      addSamples(series, before, now);
      before = now;
      sessionStorage.setItem('charts', JSON.stringify({ at: Date.now(), series }));
    } catch {
      failing = true;
    }
    const liveness = document.querySelector('[data-field=liveness]');
    liveness.textContent = failing ? 'no answer' : `live, ${new Date().toLocaleTimeString()}`;
    liveness.dataset.ok = !failing;
  };
  look();
  setInterval(look, PERIOD);
  document.addEventListener('visibilitychange', look);
}

// What this tab has seen before it went to another page and came back.
function remembered() {
  try {
    const { at, series } = JSON.parse(sessionStorage.getItem('charts'));
    return Math.abs(Date.now() - at) < FRESH ? series : undefined;
  } catch {
    return undefined;
  }
}

function addSamples(series, before, now) {
  add('connections', now.connections, whole.format(now.connections));
  // A counter that goes back is another service's.
  if (!before || now.messages < before.messages) return;
  const seconds = (now.at - before.at) / 1000;
  if (seconds < 0.2) return;
  const rate = (count) => (count(now) - count(before)) / seconds;
  const messages = rate(({ messages }) => messages);
  const errors = rate(({ counters }) => Object.values(counters.errors).reduce((sum, n) => sum + n, 0));
  add('messages', messages, round.format(messages));
  add('errors', errors, round.format(errors));
  const latency = percentile(0.95, now.duration, before.duration);
  add('latency', latency ?? 0, latency === undefined ? '–' : formatSeconds(latency));

  function add(name, value, text) {
    const samples = series[name];
    samples.push(value);
    if (samples.length > KEPT) samples.shift();
    const tile = document.querySelector(`[data-chart=${name}]`);
    tile.querySelector('output').textContent = text;
    draw(tile.querySelector('svg'), samples);
  }
}

// What the given share of the observations between two looks was below, as the buckets tell.
function percentile(share, now, before) {
  const counts = now.counts.map((count, i) => count - before.counts[i]);
  const all = counts.reduce((sum, n) => sum + n, 0);
  if (all === 0) return undefined;
  let below = 0;
  for (const [i, count] of counts.entries()) {
    if (below + count < share * all) {
      below += count;
      continue;
    }
    const [low, high] = [i === 0 ? 0 : now.bounds_seconds[i - 1], now.bounds_seconds[i]];
    return high === undefined ? low : low + ((high - low) * (share * all - below)) / count;
  }
  return now.bounds_seconds.at(-1);
}

function formatSeconds(seconds) {
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  return seconds < 1 ? `${round.format(seconds * 1000)} ms` : `${round.format(seconds)} s`;
}

function draw(svg, samples) {
  const { width, height, margin } = SHAPE;
  const top = Math.max(...samples, 1e-9);
  const x = (i) => width - ((samples.length - 1 - i) * width) / (KEPT - 1);
  const y = (value) => height - margin - (value / top) * (height - 2 * margin);
  const points = samples.map((value, i) => `${x(i).toFixed(2)},${y(value).toFixed(2)}`);
  svg.querySelector('.line').setAttribute('d', `M${points.join('L')}`);
  svg.querySelector('.area').setAttribute('d', `M${x(0).toFixed(2)},${height}L${points.join('L')}L${width},${height}Z`);
}

function showState(now) {
  const backplane = document.querySelector('[data-field=backplane]');
  backplane.textContent = now.backplane.ok ? 'up' : `degraded${now.backplane.reason ? `: ${now.backplane.reason}` : ''}`;
  backplane.dataset.ok = now.backplane.ok;
  const rows = now.workers.map((worker) => {
    const row = document.createElement('tr');
    row.dataset.state = worker.state;
    const cells = [
      ['', worker.slot],
      ['state', worker.state],
      ['number', worker.pid ?? '–'],
      ['number', whole.format(worker.connections)],
      ['number', whole.format(worker.messages)],
      ['number', whole.format(worker.restarts)],
      ['', worker.last_cause ?? '–'],
    ];
    for (const [kind, text] of cells) {
      const cell = row.insertCell();
      cell.className = kind;
      cell.textContent = text;
    }
    return row;
  });
  document.querySelector('#workers tbody').replaceChildren(...rows);
}
