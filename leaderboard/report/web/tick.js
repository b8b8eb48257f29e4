"use strict";
// The tick under the cursor: picture, reasoning, stages, state.

(function (R) {
  let route = null;
  let shown = null; // the picture that is shown, so that it is decoded only when it changes

  R.buildTick = function (chosen) {
    route = chosen;
    shown = null;
    R.get("camera").hidden = route.pictures.length === 0;
    R.get("picture").removeAttribute("src");
  };

  R.redrawOverlay = () => { if (shown !== null) R.drawOverlay(shown.tick); };

  R.showTick = function (tick) {
    showPicture(tick);
    const total = route.total_ms[tick];
    R.fill("tick-name", `Tick ${tick + 1} of ${route.n}, ${R.fixed(route.sim_s[tick], 2)} s`);
    const over = total - route.budget_ms;
    R.fill("tick-total", `${R.fixed(total)} ms, `, over > 0
      ? R.el("span", { class: "bad" }, `${R.fixed(over)} ms over the budget of ${route.budget_ms} ms`)
      : `${R.fixed(-over)} ms left of ${route.budget_ms} ms`);
    showReasoning(tick);
    showStages(tick);
    showFacts(tick);
    R.drawNear(tick);
  };

  function showPicture(tick) {
    const picture = R.nearestPicture(route, tick);
    if (picture === null) return;
    if (picture !== shown) {
      shown = picture;
      const image = R.get("picture");
      image.src = R.pictureUri(picture);
      image.alt = `Planning camera at ${R.fixed(route.sim_s[picture.tick], 2)} s`;
      image.dataset.frame = route.frame[picture.tick];
      image.onload = R.redrawOverlay;
      R.redrawOverlay(); // where it is there at once
    }
    const apart = route.sim_s[picture.tick] - route.sim_s[tick];
    const when = picture.tick === tick ? "this tick" : `${R.fixed(Math.abs(apart), 2)} s ${apart < 0 ? "earlier" : "later"}`;
    const best = decision(tick);
    R.fill("picture-note", R.el("b", {}, `${best ? `${best}, ` : ""}${R.fixed(route.total_ms[tick])} ms`), ` \u2013 picture and plan of ${when}`);
  }

  const inWords = (name) => name.toLowerCase().replace(/_/g, " ");

  /** The likeliest class and its probability; empty where the tick has no reasoning. */
  function decision(tick) {
    let best = 0;
    const at = tick * route.classes.length;
    for (let k = 1; k < route.classes.length; k++) if (route.probability[at + k] > route.probability[at + best]) best = k;
    const probability = route.probability[at + best] / 1e4;
    return probability ? `${inWords(route.classes[best])} ${R.fixed(probability, 2)}` : "";
  }

  function showReasoning(tick) {
    const width = route.classes.length;
    const row = Array.from(route.probability.subarray(tick * width, (tick + 1) * width));
    const best = Math.max(...row, 0);
    if (!best) {
      R.fill("reasoning", R.el("tbody", {}, R.el("tr", {}, R.el("td", { class: "muted" }, "none in this tick"))));
      return;
    }
    R.fill("reasoning", R.el("tbody", {}, ...route.classes.map((name, k) =>
      R.el("tr", { class: row[k] === best ? "top" : "" },
        R.el("td", {}, inWords(name)), bar(row[k] / 1e4, row[k] === best ? "accent" : "outside"),
        R.el("td", { class: "value" }, R.fixed(row[k] / 1e4, 2))))));
  }

  function showStages(tick) {
    const colours = Object.fromEntries(route.layers.map((layer) => [layer.name, layer.colour]));
    const whole = Math.max(route.total_ms[tick], 1e-3);
    const rows = route.stages.filter((stage) => !Number.isNaN(stage.ms[tick])).map((stage) => row(
      "\u2003".repeat(stage.depth) + stage.name, stage.ms[tick], stage.depth ? "inner" : "", colours[stage.name] || "rest"));
    R.fill("tick-stages", R.el("tbody", {}, ...rows, row("other", route.other_ms[tick], "", "rest")));

    function row(name, ms, kind, colour) {
      return R.el("tr", { class: kind }, R.el("td", {}, name), bar(ms / whole, colour), R.el("td", { class: "value" }, R.fixed(ms)));
    }
  }

  function bar(share, colour) {
    const width = `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(1)}%`;
    const inner = R.el("i", { "--key": `var(--${colour})` });
    inner.style.width = width;
    return R.el("td", { class: "bar" }, inner);
  }

  function showFacts(tick) {
    const rung = R.rung(route, tick);
    const name = (column) => route.names[column].values[route.names[column].index[tick]];
    const speed = route.speed_mps[tick];
    const facts = [
      ["rung", `${rung}${R.RUNGS[rung] && rung !== "planned" ? `: ${R.RUNGS[rung][1]}` : ""}${route.guarded[tick] ? ", guarded" : ""}`],
      ["command", inWords(name("command"))],
      ["speed", `${R.fixed(3.6 * speed)} km/h (${R.fixed(speed)} m/s)`],
      ["control", `throttle ${R.fixed(route.throttle[tick], 2)}, steer ${R.fixed(route.steer[tick], 2)}, brake ${R.fixed(route.brake[tick], 2)}`],
      ["to the goal", `${R.fixed(route.remaining_m[tick], 0)} m`],
      ["planner", `${route.steps[tick]} steps${name("engine") ? `, ${name("engine")}` : ""}`],
      ["outside", `${R.fixed(route.outside_ms[tick])} ms before this tick`],
      ["frame", String(route.frame[tick])],
    ];
    if (!Number.isNaN(route.predicted_ms[tick])) facts.push(["expected", `${R.fixed(route.predicted_ms[tick])} ms by the tick budget`]);
    if (route.preempted[tick] >= 0) facts.push(["preempted", `${route.preempted[tick]} times: the machine was busy elsewhere`]);
    if (!Number.isNaN(route.latency_ms[tick])) {
      const state = [route.busy[tick] ? "busy with the next" : "", route.past_horizon[tick] ? "run out" : ""].filter(Boolean).join(", ");
      facts.push(["simulated", `plan ${R.fixed(route.latency_ms[tick], 1)} ms late, seen at frame ${route.observed_frame[tick]}${state ? `; ${state}` : ""}`]);
    }
    if (route.errors[tick]) facts.push(["error", route.errors[tick]]);
    R.fill("tick-facts", ...facts.flatMap(([term, text]) => [R.el("dt", {}, term), R.el("dd", {}, text)]));
  }
})(TickReport);
