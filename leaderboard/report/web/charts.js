"use strict";
// Charts over simulated time (uPlot), one time axis and one cursor for all of them; strip and histogram.

(function (R) {
  const GUTTER = 46; // left of the plots, for their axis
  const RIGHT = 18; // right of them, for half a label
  const STRIP_ROWS = [["miss", 0], ["rung", 14], ["guard", 28]];
  let charts = [];
  let histogram = null;
  let route = null;
  let fullHeight = false;
  let linking = false;
  let printed = null; // {width, share of the height} while printing

  /** Builds all charts of a route; `onTick(i)` is called where a pointer moves, `onClick(i)` where a mouse clicks. */
  R.buildCharts = function (chosen, handlers) {
    for (const chart of charts) chart.destroy();
    charts = [];
    route = chosen;
    const x = Array.from(route.sim_s);
    const cap = latencyCap();
    charts.push(makeChart("chart-latency", 230, latencyData(x), latencySeries(), handlers, {
      range: (u, min, max) => [0, fullHeight ? max * 1.04 : Math.min(max * 1.04, cap)],
      before: drawStacks,
      draw: (u) => { drawBudget(u); drawCut(u, cap); },
    }));
    const wallCap = 1.25 * Math.max(R.quantile(route.total_ms, 0.995), R.quantile(route.outside_ms, 0.995) || 0);
    charts.push(makeChart("chart-wall", 110, [x, gaps(route.outside_ms), gaps(route.total_ms)],
      [line("outside"), line("agent")], handlers,
      { range: (u, min, max) => [0, fullHeight ? max * 1.04 : Math.min(max * 1.04, wallCap)] }));
    charts.push(makeChart("chart-speed", 110, [x, gaps(plannedSpeed(), 3.6), gaps(route.speed_mps, 3.6)],
      [line("plan", 1), line("driven", 1.5)], handlers, { range: (u, min, max) => [Math.min(0, min), Math.max(10, max * 1.08)] }));
    charts.push(makeChart("chart-control", 110, [x, gaps(route.brake, -1), gaps(route.throttle), gaps(route.steer)],
      [filled("brake"), line("throttle", 1), line("steer", 1.5)], handlers, { range: () => [-1.05, 1.05], time: true }));
    buildHistogram();
    drawStrip();
  };

  function latencyCap() {
    const longest = Math.min(1.04 * R.quantile(route.total_ms, 1), 2.2 * route.budget_ms);
    return Math.max(1.3 * route.budget_ms, 1.2 * R.quantile(route.total_ms, 0.99), longest);
  }

  // -- data ---------------------------------------------------------------------------------------------

  const hasExpected = () => route.predicted_ms.some((value) => !Number.isNaN(value));
  const latencyData = (x) => [x, Array.from(route.total_ms), ...(hasExpected() ? [gaps(route.predicted_ms)] : [])];

  /** The total gives the scale, `drawStacks` draws it; what was expected is drawn where there is room. */
  function latencySeries() {
    const total = { width: 0, points: { show: false }, paths: () => null };
    const expected = {
      ...line("ink", 1), dash: [2, 3],
      paths: (u, series, from, to) => (pixelsPerTick(u, from, to) > 2 ? stepped(u, series, from, to) : null),
    };
    return hasExpected() ? [total, expected] : [total];
  }
  const stepped = uPlot.paths.stepped({ align: 1 });
  const pixelsPerTick = (u, from, to) => u.over.clientWidth / Math.max(1, to - from);

  /** A stacked bar for every tick; where several fall on one pixel, for the longest of them. */
  function drawStacks(u) {
    const { context, left, top, height } = plotBox(u);
    const bottom = top + height, right = left + u.over.clientWidth;
    const xOf = (i) => u.valToPos(route.sim_s[i], "x", true) / ratio();
    const perMs = height / (u.scales.y.max - u.scales.y.min);
    let [from, to] = u.series[0].idxs;
    from = Math.max(0, from - 1);
    const bars = []; // [tick, from x, to x]
    for (let i = from; i <= to; i++) {
      const x = xOf(i), next = i + 1 < route.n ? xOf(i + 1) : x + 1.5;
      const last = bars[bars.length - 1];
      if (last && Math.floor(x) === Math.floor(last[1]) && next - x < 1) {
        if (route.total_ms[i] > route.total_ms[last[0]]) last[0] = i;
      } else {
        const exact = next - x >= 1;
        bars.push([i, exact ? x : Math.floor(x), exact ? Math.min(next, x + 40) : Math.floor(x) + 1]);
      }
    }
    context.save();
    context.beginPath(); context.rect(left, top, right - left, height); context.clip();
    const base = new Float64Array(bars.length);
    for (const layer of route.layers) {
      context.fillStyle = R.colour(layer.colour);
      bars.forEach(([tick, x, end], k) => {
        const ms = layer.ms[tick] || 0;
        context.fillRect(x, bottom - (base[k] + ms) * perMs, end - x, ms * perMs + 0.3);
        base[k] += ms;
      });
    }
    context.restore();
  }

  function plannedSpeed() {
    return Float32Array.from(route.sim_s, (_, i) => {
      const first = R.plan(route, i)[0];
      return first ? Math.hypot(first[0], first[1]) / route.plan_step_s : NaN;
    });
  }

  const gaps = (values, factor = 1) => Array.from(values, (value) => (Number.isNaN(value) ? null : value * factor));
  const line = (colour, width = 1.25) => ({ stroke: () => R.colour(colour), width, points: { show: false } });
  const filled = (colour) => ({ ...line(colour, 1), fill: () => R.colour(colour) + "40", fillTo: 0 });

  // -- charts over time ---------------------------------------------------------------------------------

  function makeChart(id, height, data, series, handlers, options) {
    const target = R.get(id);
    target.replaceChildren();
    const axis = (more) => ({
      stroke: () => R.colour("muted"), font: R.font(11), grid: { stroke: () => R.colour("grid"), width: 1 },
      ticks: { show: false }, ...more,
    });
    const chart = new uPlot({
      width: chartWidth(target), height, padding: [9, RIGHT, 0, 0], legend: { show: false },
      cursor: { x: false, y: false, points: { show: false }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: options.range } },
      series: [{}, ...series],
      axes: [
        axis({ size: 24, gap: 2, values: (u, ticks) => ticks.map((s) => `${+s.toFixed(2)} s`), space: 60 }),
        axis({ size: GUTTER, gap: 4, space: 26 }),
      ],
      hooks: {
        drawAxes: options.before ? [options.before] : [],
        draw: [(u) => { drawInfractions(u); if (options.draw) options.draw(u); }],
        setScale: [(u, key) => { if (key === "x" && !linking) linkZoom(u.scales.x.min, u.scales.x.max); }],
      },
    }, data, target);
    chart.at = R.el("div", { class: "at" });
    chart.over.append(chart.at);
    listen(chart, handlers);
    return chart;
  }

  function listen(chart, handlers) {
    const tickAt = (event) => chart.posToIdx(event.clientX - chart.over.getBoundingClientRect().left);
    let pressedAt = null;
    chart.over.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "mouse" || event.buttons === 0) handlers.onTick(tickAt(event), event.pointerType !== "mouse");
    });
    chart.over.addEventListener("pointerdown", (event) => {
      pressedAt = event.clientX;
      if (event.pointerType !== "mouse") handlers.onTick(tickAt(event), true);
    });
    chart.over.addEventListener("pointerup", (event) => {
      const still = pressedAt !== null && Math.abs(event.clientX - pressedAt) < 4;
      if (event.pointerType === "mouse" && still) handlers.onClick(tickAt(event));
    });
  }

  function linkZoom(min, max) {
    if (min === null || max === null) return;
    linking = true;
    for (const chart of charts) chart.setScale("x", { min, max });
    linking = false;
    requestAnimationFrame(() => { drawStrip(); R.moveCursor(R.current); });
  }

  R.latencyChart = () => charts[0];

  R.zoom = function (factor) {
    const { min, max } = charts[0].scales.x;
    const first = route.sim_s[0], last = route.sim_s[route.n - 1];
    if (factor === null) return linkZoom(first, last);
    const middle = Math.min(Math.max(route.sim_s[R.current], min), max);
    const span = Math.min(Math.max((max - min) * factor, 0.5), last - first);
    const from = Math.min(Math.max(middle - ((middle - min) / (max - min)) * span, first), last - span);
    linkZoom(from, from + span);
  };

  /** Brings a tick into sight where the charts are zoomed in. */
  R.reveal = function (tick) {
    const { min, max } = charts[0].scales.x;
    const at = route.sim_s[tick];
    if (at >= min && at <= max) return;
    const first = route.sim_s[0], last = route.sim_s[route.n - 1], span = max - min;
    const from = Math.min(Math.max(at - span / 2, first), last - span);
    linkZoom(from, from + span);
  };

  R.moveCursor = function (tick) {
    for (const chart of charts) {
      const left = chart.valToPos(route.sim_s[tick], "x");
      chart.at.style.transform = `translateX(${left.toFixed(1)}px)`;
      chart.at.hidden = !(left >= -1 && left <= chart.over.clientWidth + 1);
    }
  };

  R.setFullHeight = function (on) {
    fullHeight = on;
    for (const chart of charts) {
      const { min, max } = chart.scales.x;
      linking = true;
      chart.setData(chart.data, false);
      chart.setScale("x", { min, max });
      linking = false;
    }
  };

  function drawInfractions(u) {
    const { context, left, top, height } = plotBox(u);
    context.save();
    context.strokeStyle = context.fillStyle = R.colour("miss");
    context.font = R.font(10);
    context.textAlign = "center";
    let flagged = -Infinity;
    route.infractions.forEach((infraction, number) => {
      const x = u.valToPos(route.sim_s[infraction.tick], "x", true) / ratio();
      if (x < left || x > left + u.over.clientWidth) return;
      context.setLineDash([1, 3]);
      context.beginPath(); context.moveTo(x, top); context.lineTo(x, top + height); context.stroke();
      if (u === charts[0] || charts.length === 0) {
        flagged = Math.max(x, flagged + 14); // side by side where they would lie on each other
        context.fillStyle = R.colour("miss");
        context.beginPath(); context.arc(flagged, top - 1, 6.5, 0, 7); context.fill();
        context.fillStyle = R.colour("bg");
        context.textBaseline = "middle";
        context.fillText(String(number + 1), flagged, top - 0.5);
      }
    });
    context.restore();
  }

  function drawBudget(u) {
    const { context, left, top } = plotBox(u);
    const y = u.valToPos(route.budget_ms, "y", true) / ratio();
    if (y < top) return;
    context.save();
    context.strokeStyle = context.fillStyle = R.colour("budget");
    context.setLineDash([6, 4]);
    context.beginPath(); context.moveTo(left, y); context.lineTo(left + u.over.clientWidth, y); context.stroke();
    const text = `budget ${route.budget_ms} ms`;
    context.font = R.font(11);
    context.textAlign = "left";
    const width = context.measureText(text).width;
    context.fillStyle = R.colour("bg");
    context.globalAlpha = 0.85;
    context.fillRect(left + u.over.clientWidth - width - 8, y - 17, width + 6, 14);
    context.globalAlpha = 1;
    context.fillStyle = R.colour("budget");
    context.fillText(text, left + u.over.clientWidth - width - 5, y - 6);
    context.restore();
  }

  /** A small arrow at the top for every tick that is longer than the chart is high. */
  function drawCut(u, cap) {
    if (fullHeight) return;
    const { context, left, top } = plotBox(u);
    context.save();
    context.fillStyle = R.colour("miss");
    for (const i of route.misses) {
      if (route.total_ms[i] <= cap) continue;
      const x = u.valToPos(route.sim_s[i], "x", true) / ratio();
      if (x < left || x > left + u.over.clientWidth) continue;
      context.beginPath(); context.moveTo(x - 3.5, top + 6); context.lineTo(x + 3.5, top + 6); context.lineTo(x, top); context.fill();
    }
    context.restore();
  }

  const ratio = () => uPlot.pxRatio || window.devicePixelRatio || 1;
  function plotBox(u) {
    const context = u.ctx, r = ratio();
    context.setTransform(r, 0, 0, r, 0, 0);
    return { context, left: u.bbox.left / r, top: u.bbox.top / r, height: u.bbox.height / r };
  }

  // -- strip of misses, rungs and guarded ticks ---------------------------------------------------------

  function drawStrip() {
    const { context } = R.context(R.get("strip"));
    const { min, max } = charts[0].scales.x;
    const left = charts[0].bbox.left / ratio(), right = left + charts[0].over.clientWidth;
    const tickWidth = Math.max(1.5, ((right - left) * 0.05) / (max - min));
    context.font = R.font(10);
    context.textAlign = "right";
    for (const [name, y] of STRIP_ROWS) {
      context.fillStyle = R.colour("muted"); context.fillText(name, left - 6, y + 9);
      context.fillStyle = R.colour("panel"); context.fillRect(left, y, right - left, 11);
    }
    const mark = (i, y, colour) => {
      const x = left + ((route.sim_s[i] - min) / (max - min)) * (right - left);
      if (x < left - tickWidth || x > right) return;
      context.fillStyle = R.colour(colour);
      context.fillRect(Math.max(x, left), y, Math.min(tickWidth, right - x), 11);
    };
    for (const i of route.misses) mark(i, 0, "miss");
    for (const i of route.offPlan) mark(i, 14, (R.RUNGS[R.rung(route, i)] || ["near-budget"])[0] || "near-budget");
    for (const i of route.guards) mark(i, 28, "stage2");
  }

  // -- histogram ----------------------------------------------------------------------------------------

  function buildHistogram() {
    const target = R.get("chart-histogram");
    target.replaceChildren();
    if (histogram) histogram.destroy();
    const end = Math.max(1.2 * route.budget_ms, 1.05 * R.quantile(route.total_ms, 0.995));
    const step = niceStep(end / 90);
    const counts = new Array(Math.ceil(end / step) + 1).fill(0); // the last one holds all that is longer
    for (const ms of route.total_ms) counts[Math.min(Math.floor(ms / step), counts.length - 1)]++;
    const x = counts.map((_, i) => (i + 0.5) * step);
    const over = (i) => (i + 0.5) * step > route.budget_ms;
    const bars = uPlot.paths.bars({ size: [0.88, 60], align: 0 });
    const series = (colour, keep) => [counts.map((n, i) => (keep(i) && n ? n : null)), {
      width: 0, fill: () => R.colour(colour), paths: bars, points: { show: false },
    }];
    const [inBudget, inSeries] = series("agent", (i) => !over(i));
    const [beyond, beyondSeries] = series("miss", over);
    const longer = counts[counts.length - 1];
    const axis = (more) => ({
      stroke: () => R.colour("muted"), font: R.font(11), grid: { stroke: () => R.colour("grid"), width: 1 }, ticks: { show: false }, ...more,
    });
    histogram = new uPlot({
      width: chartWidth(target), height: 210, padding: [30, RIGHT, 0, 0], legend: { show: false },
      cursor: { show: false }, scales: { x: { time: false, range: () => [0, counts.length * step] }, y: { range: (u, a, b) => [0, b * 1.05] } },
      series: [{}, inSeries, beyondSeries],
      axes: [
        axis({ size: 24, gap: 2, space: 46, values: (u, ticks) => ticks.map((v) => `${v} ms`) }),
        axis({ size: GUTTER, gap: 4, space: 30 }),
      ],
      hooks: { draw: [(u) => drawPercentiles(u, longer, counts.length * step)] },
    }, [x, inBudget, beyond], target);
  }

  function drawPercentiles(u, longer, end) {
    const { context, top, height, left } = plotBox(u);
    const total = route.summary.stages.total;
    const lines = [["p50", total.p50_ms], ["p95", total.p95_ms], ["p99", total.p99_ms], ["budget", route.budget_ms]];
    context.save();
    context.font = R.font(11);
    const right = left + u.over.clientWidth;
    let labels = [];
    for (const [name, ms] of lines.sort((a, b) => a[1] - b[1])) {
      const x = u.valToPos(ms, "x", true) / ratio();
      if (x > right) continue;
      context.strokeStyle = R.colour(name === "budget" ? "budget" : "muted");
      context.setLineDash(name === "budget" ? [6, 4] : [2, 2]);
      context.beginPath(); context.moveTo(x, top - 2); context.lineTo(x, top + height); context.stroke();
      labels.push({ x, text: name === "budget" ? `budget ${R.fixed(ms, 0)}` : `${name} ${R.fixed(ms)}`, strong: name === "budget" });
    }
    context.textAlign = "left";
    // labels that would touch each other go to the row above
    let ends = [-1e9, -1e9];
    for (const label of labels) {
      const width = context.measureText(label.text).width;
      const start = Math.min(Math.max(label.x - width / 2, left), right - width);
      const row = start > ends[0] + 6 ? 0 : 1;
      ends[row] = start + width;
      context.fillStyle = R.colour(label.strong ? "budget" : "muted");
      context.fillText(label.text, start, top - 6 - 13 * row);
    }
    if (longer) {
      context.fillStyle = R.colour("miss");
      context.textAlign = "right";
      context.fillText(`${longer} longer`, right, top + 22);
    }
    context.restore();
  }

  const niceStep = (wanted) => [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((step) => step >= wanted) || 2000;

  // -- size and theme -----------------------------------------------------------------------------------

  const chartWidth = (target) => Math.max(200, printed ? printed.width : target.clientWidth);

  /** Draws everything anew at the present width, or at a fixed one and lower (for print). */
  R.resizeCharts = function (print = null) {
    printed = print;
    for (const chart of [...charts, histogram]) {
      if (!chart) continue;
      chart.fullHeight ??= chart.height;
      const height = printed ? Math.round(printed.share * chart.fullHeight) : chart.fullHeight;
      chart.setSize({ width: chartWidth(chart.root.parentElement), height });
    }
    R.redrawCharts();
  };

  R.redrawCharts = function () {
    for (const chart of [...charts, histogram]) if (chart) chart.redraw(false, true);
    if (charts.length) { drawStrip(); R.moveCursor(R.current); }
  };
})(TickReport);
