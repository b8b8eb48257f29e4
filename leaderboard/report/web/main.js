"use strict";
// Ties it together: which route, which tick, and what follows the cursor.

(function (R) {
  const PRINT = { width: 690, share: 0.75 }; // A4 less its margins, CSS pixels; share of the charts' height
  const MARKS = { misses: "misses", infractions: "infractions", offPlan: "other rungs", guards: "guarded" };
  let route = null;
  let held = false; // a click keeps the tick where it is until the next one
  let scheduled = false;
  let playing = null;
  R.current = 0;

  function setTick(tick, { reveal = false } = {}) {
    R.current = Math.min(Math.max(tick, 0), route.n - 1);
    if (reveal) R.reveal(R.current);
    if (scheduled) return;
    scheduled = true;
    requestAnimationFrame(() => { scheduled = false; show(); });
  }

  function show() {
    R.moveCursor(R.current);
    R.moveOnMap(R.current);
    R.showTick(R.current);
    R.get("scrub").value = R.current;
    R.get("scrub").setAttribute("aria-valuetext", `${R.fixed(route.sim_s[R.current], 2)} s`);
    R.get("scrub-time").textContent = `${R.fixed(route.sim_s[R.current], 2)} s`;
    R.get("tick-held").textContent = held ? "held; click a chart to let go" : "";
  }

  const handlers = {
    onTick(tick, touch) { if (!held || touch) setTick(tick); },
    onClick(tick) { held = !held; setTick(tick); },
    onMoment(tick) {
      held = true;
      setTick(tick, { reveal: true });
      document.querySelector(".drive").scrollIntoView({ behavior: "smooth" });
    },
  };

  function chooseRoute(number) {
    stop();
    route = R.routeAt(number);
    held = false;
    R.buildRoutes(number, chooseRoute);
    R.buildSummary(route, handlers);
    R.buildTick(route);
    R.current = route.infractions.length ? route.infractions[0].tick : longestTick();
    R.get("scrub").max = route.n - 1;
    R.buildMap(route, handlers);
    R.buildCharts(route, handlers);
    const kinds = Object.keys(MARKS).filter((kind) => marks(kind).length);
    R.fill("mark-kind", ...kinds.map((kind) => R.el("option", { value: kind }, `${marks(kind).length} ${MARKS[kind]}`)));
    for (const id of ["mark-kind", "mark-before", "mark-next"]) R.get(id).disabled = !kinds.length;
    show();
  }

  function longestTick() {
    let best = 0;
    for (let i = 1; i < route.n; i++) if (route.total_ms[i] > route.total_ms[best]) best = i;
    return best;
  }

  function marks(kind) {
    return kind === "infractions" ? route.infractions.map((infraction) => infraction.tick) : route[kind];
  }

  function goToMark(direction) {
    const list = marks(R.get("mark-kind").value);
    const next = direction > 0 ? list.find((tick) => tick > R.current) : [...list].reverse().find((tick) => tick < R.current);
    if (next !== undefined) { held = true; setTick(next, { reveal: true }); }
  }

  function stop() {
    if (playing !== null) clearInterval(playing);
    playing = null;
    R.get("play").setAttribute("aria-pressed", "false");
    R.get("play").textContent = "Play";
  }

  function play() {
    if (playing !== null) return stop();
    held = true;
    if (R.current >= route.n - 1) setTick(0, { reveal: true });
    R.get("play").setAttribute("aria-pressed", "true");
    R.get("play").textContent = "Stop";
    let before = performance.now(), rest = 0;
    playing = setInterval(() => {
      const now = performance.now();
      rest += (now - before) / 1e3;
      before = now;
      let tick = R.current;
      while (tick < route.n - 1 && rest > 0) { tick++; rest -= Math.max(route.sim_s[tick] - route.sim_s[tick - 1], 0.001); }
      setTick(tick, { reveal: true });
      if (tick >= route.n - 1) stop();
    }, 50);
  }

  R.get("scrub").addEventListener("input", (event) => { held = true; setTick(Number(event.target.value), { reveal: true }); });
  R.get("play").addEventListener("click", play);
  R.get("mark-before").addEventListener("click", () => goToMark(-1));
  R.get("mark-next").addEventListener("click", () => goToMark(1));
  R.get("zoom-in").addEventListener("click", () => R.zoom(0.5));
  R.get("zoom-out").addEventListener("click", () => R.zoom(2));
  R.get("zoom-all").addEventListener("click", () => R.zoom(null));
  R.get("full-height").addEventListener("click", (event) => {
    const on = event.target.getAttribute("aria-pressed") !== "true";
    event.target.setAttribute("aria-pressed", String(on));
    R.setFullHeight(on);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, button, summary") || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { held = true; setTick(R.current + step * (event.shiftKey ? 20 : 1), { reveal: true }); event.preventDefault(); }
    if (event.key === "Escape") { held = false; show(); }
  });

  // -- size, theme, print -------------------------------------------------------------------------------

  function redraw(print = null) {
    R.forgetColours();
    R.resizeCharts(print);
    R.drawMap();
    R.redrawOverlay();
    show();
  }

  let lastWidth = 0;
  new ResizeObserver(() => {
    const width = document.body.clientWidth; // the height changes with what is in the page
    if (route === null || width === lastWidth || document.documentElement.hasAttribute("data-print")) return;
    lastWidth = width;
    redraw();
  }).observe(document.body);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
  addEventListener("beforeprint", () => {
    document.documentElement.setAttribute("data-print", "");
    redraw(PRINT);
  });
  addEventListener("afterprint", () => {
    document.documentElement.removeAttribute("data-print");
    redraw();
  });

  chooseRoute(0);
  document.documentElement.dataset.ready = "true";
})(TickReport);
