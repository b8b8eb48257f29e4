"use strict";
// What the page shows, read from the data elements: base64 into typed arrays. All scripts share TickReport.

const TickReport = {};

(function (R) {
  const KINDS = {
    f32: Float32Array, f64: Float64Array, i32: Int32Array, i16: Int16Array, u16: Uint16Array, u8: Uint8Array,
  };
  const COLOURED_STAGES = 5;
  const USUAL_COLOURS = { planner: "stage0", vl: "stage1", reasoning: "stage2", preprocess: "stage3", postprocess: "stage4" };

  R.unpack = function (item) {
    const text = atob(item.data);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new KINDS[item.type](bytes.buffer);
  };

  const routeElements = Array.from(document.querySelectorAll("script.route"));
  const routes = routeElements.map(() => null);
  R.overview = JSON.parse(document.getElementById("overview").textContent);
  R.routeCount = routeElements.length;

  /** Route `number`, unpacked on first use. */
  R.routeAt = function (number) {
    if (routes[number] === null) routes[number] = readRoute(JSON.parse(routeElements[number].textContent), number);
    return routes[number];
  };

  function readRoute(raw, number) {
    const route = { ...raw, number, ...mapValues(raw.columns, R.unpack) };
    route.n = route.frame.length;
    route.names = mapValues(raw.names, (names) => ({ values: names.values, index: R.unpack(names.index) }));
    route.stages = raw.stages.map((stage) => ({ ...stage, ms: R.unpack(stage.ms) }));
    route.planLength = raw.columns.plan_cm.shape[1];
    route.layers = layers(route);
    route.tickOfFrame = new Map(Array.from(route.frame, (frame, i) => [frame, i]));
    for (const infraction of route.infractions) infraction.tick = nearestByTime(route, infraction.sim_s, infraction.frame);
    route.misses = ticksWhere(route, (i) => route.total_ms[i] > route.budget_ms);
    route.offPlan = ticksWhere(route, (i) => R.rung(route, i) !== "planned");
    route.guards = ticksWhere(route, (i) => route.guarded[i] === 1);
    route.pictures = pictures(route, number);
    return route;
  }

  /** What the stacked chart stacks: the five top-level stages that took the most in all, and the rest. */
  function layers(route) {
    const top = route.stages.filter((stage) => stage.parent === null);
    const ranked = [...top].sort((a, b) => R.sum(b.ms) - R.sum(a.ms)).slice(0, COLOURED_STAGES);
    const kept = top.filter((stage) => ranked.includes(stage));
    const colours = stageColours(kept.map((stage) => stage.name));
    const result = kept.map((stage) => ({ name: stage.name, ms: stage.ms, colour: colours[stage.name], of: [stage.name] }));
    const rest = new Float32Array(route.n);
    for (let i = 0; i < route.n; i++) {
      rest[i] = route.total_ms[i] - kept.reduce((sum, stage) => sum + (stage.ms[i] || 0), 0);
    }
    const others = top.filter((stage) => !ranked.includes(stage)).map((stage) => stage.name);
    return [...result, { name: "rest", ms: rest, colour: "rest", of: [...others, "other"] }];
  }

  /** The same stage has the same colour in every report; others take what is free. */
  function stageColours(names) {
    const colours = {};
    for (const name of names) if (name in USUAL_COLOURS) colours[name] = USUAL_COLOURS[name];
    const free = Object.values(USUAL_COLOURS).filter((colour) => !Object.values(colours).includes(colour));
    for (const name of names) colours[name] ??= free.shift();
    return colours;
  }

  function pictures(route, number) {
    const found = [];
    for (const element of document.querySelectorAll(`script.picture[data-at^="${number}/"]`)) {
      const tick = route.tickOfFrame.get(Number(element.dataset.at.split("/")[1]));
      if (tick !== undefined) found.push({ tick, element });
    }
    return found.sort((a, b) => a.tick - b.tick);
  }

  R.pictureUri = (picture) => "data:image/jpeg;base64," + picture.element.textContent;

  /** The kept picture nearest in time to a tick; null where there is none. */
  R.nearestPicture = function (route, tick) {
    const list = route.pictures;
    if (!list.length) return null;
    let low = 0, high = list.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (list[middle].tick < tick) low = middle + 1; else high = middle;
    }
    const away = (picture) => Math.abs(route.sim_s[picture.tick] - route.sim_s[tick]);
    return low > 0 && away(list[low - 1]) < away(list[low]) ? list[low - 1] : list[low];
  };

  function nearestByTime(route, simS, frame) {
    const exact = route.tickOfFrame.get(frame);
    if (exact !== undefined) return exact;
    let best = 0;
    for (let i = 1; i < route.n; i++) {
      if (Math.abs(route.sim_s[i] - simS) < Math.abs(route.sim_s[best] - simS)) best = i;
    }
    return best;
  }

  R.rung = (route, i) => route.names.rung.values[route.names.rung.index[i]];

  /** Waypoints of tick i, ego frame, metres; empty without a plan. */
  R.plan = function (route, i) {
    const points = [];
    for (let k = 0; k < route.planLength; k++) {
      const at = 2 * (i * route.planLength + k);
      if (route.plan_cm[at] === route.no_plan_cm || route.plan_cm[at + 1] === route.no_plan_cm) break;
      points.push([route.plan_cm[at] / 100, route.plan_cm[at + 1] / 100]);
    }
    return points;
  };

  function ticksWhere(route, holds) {
    const found = [];
    for (let i = 0; i < route.n; i++) if (holds(i)) found.push(i);
    return found;
  }

  R.sum = (values) => values.reduce((sum, value) => sum + (Number.isNaN(value) ? 0 : value), 0);

  R.mean = function (values) {
    let sum = 0, n = 0;
    for (const value of values) if (!Number.isNaN(value)) { sum += value; n++; }
    return n ? sum / n : 0;
  };

  R.quantile = function (values, share) {
    const sorted = Float64Array.from(values).filter((value) => !Number.isNaN(value)).sort();
    if (!sorted.length) return NaN;
    const at = share * (sorted.length - 1), low = Math.floor(at);
    return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
  };

  function mapValues(object, change) {
    return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, change(value)]));
  }
})(TickReport);
