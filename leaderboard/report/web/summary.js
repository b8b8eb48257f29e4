"use strict";
// What stands around the charts: title, key figures, legends, percentiles, moments, result, facts of the run.

(function (R) {
  const ROW = 4; // cards stand in rows of four on a wide page and on paper
  const INFRACTIONS_SHOWN = 24;
  let route = null;

  R.buildSummary = function (chosen, handlers) {
    route = chosen;
    title();
    notes();
    figures();
    legends();
    percentiles();
    moments(handlers.onMoment);
    result();
    facts();
  };

  R.buildRoutes = function (current, choose) {
    const nav = R.get("routes");
    nav.hidden = R.routeCount < 2;
    if (nav.hidden) return;
    const rows = [];
    for (let number = 0; number < R.routeCount; number++) {
      const one = R.routeAt(number), total = one.summary.stages.total;
      const go = () => choose(number);
      rows.push(R.el("tr", { "aria-current": number === current ? "true" : null, onclick: go },
        R.el("td", {}, R.el("button", { type: "button" }, one.route_id)),
        R.el("td", {}, one.record ? one.record.status : "no result"),
        ...[one.record ? R.fixed(one.record.scores.score_composed) : "–", one.record ? R.fixed(one.record.scores.score_route) : "–",
          one.record ? String(one.record.num_infractions) : "–", R.fixed(total.p50_ms), R.fixed(total.p95_ms), R.fixed(total.p99_ms),
          `${one.summary.misses} of ${one.n}`].map((text) => R.el("td", {}, text))));
    }
    nav.replaceChildren(table(["route", "status", "score", "completion %", "infractions", "p50 ms", "p95 ms", "p99 ms", "misses"], rows));
  };

  function title() {
    const { header, record, map } = route;
    R.fill("route-name", route.route_id.replace(/^RouteScenario_/, "Route ").replace(/_rep(\d+)$/, (_, k) => (k === "0" ? "" : `, repetition ${k}`)));
    const parts = [
      map ? map.town : "", map ? `${R.fixed(map.length_m, 0)} m` : "", `${R.fixed(route.sim_s[route.n - 1] - route.sim_s[0], 0)} s simulated`,
      header.engine ? `engine ${header.engine}` : "", (header.hardware || {}).gpu || (header.hardware || {}).cpu || "",
    ];
    R.fill("subtitle", parts.filter(Boolean).join(" · "));
    const status = R.get("status");
    status.textContent = record ? record.status : "No result";
    status.className = "status " + (!record ? "" : record.status.startsWith("Failed") ? "bad" : record.num_infractions ? "mixed" : "good");
  }

  function notes() {
    const all = [...R.overview.notes, ...route.notes];
    R.get("notes").hidden = all.length === 0;
    R.fill("notes", ...all.map((text) => R.el("li", {}, text)));
  }

  function figures() {
    const { record, summary, n } = route;
    const total = summary.stages.total;
    const wall = R.mean(route.total_ms) + R.mean(route.outside_ms);
    const real = wall ? (route.sim_s[n - 1] - route.sim_s[0]) / (n - 1) / (wall / 1e3) : NaN;
    const over = (ms) => (ms > route.budget_ms ? "bad" : "");
    const items = [
      ["Driving score", record ? R.fixed(record.scores.score_composed) : "–", "", record ? `completion ${R.fixed(record.scores.score_route)} %, penalty ${R.fixed(record.scores.score_penalty, 2)}` : "no result", ""],
      ["Infractions", record ? String(record.num_infractions) : "–", "", record ? kindsInWords(record) : "", ""],
      ["Tick latency p50", R.fixed(total.p50_ms), "ms", `budget ${route.budget_ms} ms`, over(total.p50_ms)],
      ["p95", R.fixed(total.p95_ms), "ms", `p90 ${R.fixed(total.p90_ms)} ms`, over(total.p95_ms)],
      ["p99", R.fixed(total.p99_ms), "ms", `longest ${R.fixed(total.max_ms)} ms`, over(total.p99_ms)],
      ["Over the budget", R.percent(summary.misses, n), "", `${summary.misses} of ${n} ticks`, summary.misses ? "bad" : ""],
      ["Planned in full", R.percent(n - route.offPlan.length, n), "", `other rungs ${route.offPlan.length}, guarded ${route.guards.length}`, ""],
      ["Against real time", Number.isNaN(real) ? "–" : `${R.fixed(real, 2)}×`, "", `${R.fixed(wall, 0)} ms of wall time / tick`, ""],
    ];
    R.fill("figures", ...items.map(([term, value, unit, detail, kind]) => R.el("div", {},
      R.el("dt", {}, term), R.el("dd", { class: kind }, value, unit ? R.el("small", {}, unit) : null),
      R.el("dd", { class: "detail" }, detail || "\u00a0"))));
  }

  function kindsInWords(record) {
    const found = Object.entries(record.infractions).filter(([, messages]) => messages.length);
    return found.map(([kind, messages]) => `${messages.length} ${(R.KINDS[kind] || kind).toLowerCase()}`).join(", ") || "none";
  }

  function legends() {
    R.fill("stage-legend", ...route.layers.map((layer) =>
      R.el("li", { title: layer.of.join(", ") }, R.key(layer.colour), layer.name === "rest" ? `rest (${layer.of.join(", ")})` : layer.name)),
    route.predicted_ms.some((value) => !Number.isNaN(value)) ? R.el("li", {}, "dotted, where zoomed in: what the tick budget expected") : null);
    const counts = new Map();
    for (const i of route.offPlan) counts.set(R.rung(route, i), (counts.get(R.rung(route, i)) || 0) + 1);
    R.fill("strip-legend",
      R.el("li", {}, R.key("miss"), `over the budget: ${route.misses.length}`),
      R.el("li", {}, `planned in full: ${route.n - route.offPlan.length}`),
      ...Array.from(counts, ([rung, count]) => R.el("li", { title: (R.RUNGS[rung] || ["", ""])[1] },
        R.key((R.RUNGS[rung] || ["near-budget"])[0] || "near-budget"), `${rung || "no rung"}: ${count}`)),
      R.el("li", {}, R.key("stage2"), `guarded: ${route.guards.length}`));
    const agent = R.mean(route.total_ms), outside = R.mean(route.outside_ms);
    R.fill("wall-says", `mean: agent ${R.fixed(agent)} ms, outside ${R.fixed(outside)} ms`);
  }

  function percentiles() {
    const columns = ["p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms"];
    const depths = Object.fromEntries(route.stages.map((stage) => [stage.name, stage.depth]));
    const rows = Object.entries(route.summary.stages).map(([name, stage]) => R.el("tr", { class: name === "total" ? "total" : "" },
      R.el("td", {}, "\u2003".repeat(depths[name] ?? 0) + (name === "outside" ? "outside the agent" : name)),
      ...columns.map((key) => R.el("td", { class: name === "total" && stage[key] > route.budget_ms ? "bad" : "" }, R.fixed(stage[key]))),
      R.el("td", {}, String(stage.n))));
    R.get("percentiles").replaceChildren(...table(["stage", "p50", "p90", "p95", "p99", "max", "ticks"], rows).children);
  }

  // -- moments ------------------------------------------------------------------------------------------

  function moments(go) {
    const cards = route.infractions.slice(0, INFRACTIONS_SHOWN).map((infraction, number) => card(infraction.tick,
      `${number + 1}  ${R.KINDS[infraction.kind] || infraction.kind}`, infraction.message, "infraction", go));
    const medians = Object.fromEntries(route.stages.map((stage) => [stage.name, R.quantile(stage.ms, 0.5)]));
    for (const tick of longest(ROW * Math.ceil((cards.length + ROW) / ROW) - cards.length)) {
      cards.push(card(tick, `${R.fixed(route.total_ms[tick])} ms`, whatMadeItLong(tick, medians), "long", go));
    }
    R.fill("moments", ...cards);
    const more = route.infractions.length - INFRACTIONS_SHOWN;
    R.fill("moments-note", `${route.infractions.length ? "infractions, then " : ""}the longest ticks${more > 0 ? `; ${more} more infractions are listed under Result` : ""}`);
  }

  /** The longest ticks, at most one of any second: neighbours share their cause. */
  function longest(wanted) {
    const order = Array.from(route.total_ms.keys()).sort((a, b) => route.total_ms[b] - route.total_ms[a]);
    const found = [];
    for (const tick of order) {
      if (found.length === wanted) break;
      if (found.every((other) => Math.abs(route.sim_s[other] - route.sim_s[tick]) > 1)) found.push(tick);
    }
    return found;
  }

  function whatMadeItLong(tick, medians) {
    const top = route.stages.filter((stage) => stage.parent === null);
    let worst = null, excess = 0;
    for (const stage of top) {
      const more = stage.ms[tick] - medians[stage.name];
      if (more > excess) { worst = stage; excess = more; }
    }
    const switches = route.preempted[tick] > 0 ? `; preempted ${route.preempted[tick]} times` : "";
    if (!worst) return `no stage was longer than usual${switches}`;
    return `most of it ${worst.name}: ${R.fixed(worst.ms[tick])} ms, usually ${R.fixed(medians[worst.name])} ms${switches}`;
  }

  function card(tick, heading, text, kind, go) {
    const picture = R.nearestPicture(route, tick);
    const near = picture !== null && Math.abs(route.sim_s[picture.tick] - route.sim_s[tick]) <= 1.01;
    return R.el("li", { class: kind }, R.el("button", { type: "button", onclick: () => go(tick) },
      near ? R.el("img", { src: R.pictureUri(picture), alt: "", decoding: "async" }) : R.el("div", { class: "no-picture" }, "no picture"),
      R.el("strong", {}, `${heading}, at ${R.fixed(route.sim_s[tick], 2)} s`), R.el("span", {}, text)));
  }

  // -- result and facts ---------------------------------------------------------------------------------

  function result() {
    const { record } = route;
    if (!record) return R.fill("result", R.el("p", { class: "muted" }, "The results file has no record of this route."));
    const rows = (record.criteria || []).map((row) => R.el("tr", {}, R.el("td", {}, row.name),
      R.el("td", { class: row.result === "FAILURE" ? "bad" : "" }, row.result.toLowerCase()), R.el("td", {}, row.unit ? `${row.value} ${row.unit}` : "")));
    const messages = Object.entries(record.infractions).flatMap(([kind, texts]) => texts.map((text) => R.el("li", {}, `${R.KINDS[kind] || kind}: ${text}`)));
    const { meta } = record;
    R.fill("result",
      rows.length ? R.el("div", { class: "scroll" }, table(["criterion", "result", "value"], rows)) : null,
      R.el("p", { class: "muted" }, `${R.fixed(meta.route_length, 0)} m in ${R.fixed(meta.duration_game)} s simulated, ${R.fixed(meta.duration_system)} s of wall time`),
      messages.length ? R.el("ul", { class: "messages" }, ...messages) : null);
  }

  function facts() {
    const { header } = route, hardware = header.hardware || {}, evaluation = R.overview.evaluation;
    const items = [
      ["run", R.overview.name], ["agent", evaluation.agent], ["rules", evaluation.rules], ["seed", evaluation.seed],
      ["engine", header.engine], ["commit", header.commit], ["config hash", header.config_hash],
      ["processor", hardware.cpu ? `${hardware.cpu}, cores ${hardware.cores}, torch threads ${hardware.torch_threads}` : null],
      ["GPU", hardware.gpu ? `${hardware.gpu}, driver ${hardware.driver || "unknown"}` : "none"],
      ["versions", Object.entries(header.versions || {}).map(([name, version]) => `${name} ${version}`).join(", ")],
      ["ticks", `${route.n}, frames ${route.frame[0]} to ${route.frame[route.n - 1]}`],
      ["pictures", String(route.pictures.length)],
    ];
    R.fill("facts", ...items.filter(([, value]) => value !== null && value !== undefined && value !== "")
      .flatMap(([term, value]) => [R.el("dt", {}, term), R.el("dd", {}, String(value))]));
    R.get("config").textContent = JSON.stringify(header.config || {}, null, 2);
  }

  function table(heads, rows) {
    return R.el("table", { class: "table" }, R.el("thead", {}, R.el("tr", {}, ...heads.map((head) => R.el("th", { scope: "col" }, head)))), R.el("tbody", {}, ...rows));
  }
})(TickReport);
