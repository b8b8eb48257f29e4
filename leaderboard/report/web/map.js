"use strict";
// The map with the driven path, and the plan seen from the car. World frame: x east, y south, as CARLA has it.

(function (R) {
  const LONGEST_TICK_M = 20; // of way that is still joined on the map
  const CAR_M = { length: 4.9, width: 2.1 };
  let route = null;
  let view = null; // of the map: world -> canvas
  let still = null; // the map without what moves

  R.buildMap = function (chosen, handlers) {
    route = chosen;
    const canvas = R.get("map");
    canvas.onpointermove = (event) => handlers.onTick(nearestTick(event), event.pointerType !== "mouse");
    canvas.onpointerdown = (event) => {
      if (event.pointerType === "mouse") handlers.onClick(nearestTick(event));
      else handlers.onTick(nearestTick(event), true);
    };
    R.fill("map-legend",
      R.el("li", {}, "tick latency 0 ", R.el("i", { class: "key ramp" }), `${route.budget_ms} ms`),
      R.el("li", {}, R.key("miss"), "over the budget"),
      route.map ? R.el("li", {}, R.key("route"), "route") : null,
      route.infractions.length ? R.el("li", {}, R.key("miss", true), "infraction, numbered as below") : null);
    R.drawMap();
  };

  /** Colour of a latency: blue to ochre up to the budget, red beyond. */
  function latencyBand(ms) {
    if (ms > route.budget_ms) return 16;
    return Math.min(15, Math.max(0, Math.floor((16 * ms) / route.budget_ms)));
  }

  function bandColours() {
    const stops = [R.colour("fast"), R.colour("half"), R.colour("near-budget")].map(rgb);
    const bands = [];
    for (let band = 0; band < 16; band++) {
      const at = (2 * band) / 15, low = Math.min(1, Math.floor(at)), share = at - low;
      bands.push(`rgb(${stops[low].map((c, k) => Math.round(c + share * (stops[low + 1][k] - c))).join(" ")})`);
    }
    return [...bands, R.colour("miss")];
  }
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  function bounds() {
    const box = [Infinity, Infinity, -Infinity, -Infinity];
    const add = (x, y) => {
      if (Number.isNaN(x) || Number.isNaN(y)) return;
      box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x); box[3] = Math.max(box[3], y);
    };
    for (let i = 0; i < route.n; i++) add(route.x_m[i], route.y_m[i]);
    for (const [x, y] of route.map ? route.map.route : []) add(x, y);
    return box[0] > box[2] ? [-10, -10, 10, 10] : box;
  }

  R.drawMap = function () {
    const { context, width, height } = R.context(R.get("map"));
    const [x0, y0, x1, y1] = bounds();
    const margin = 26;
    const scale = Math.min((width - 2 * margin) / Math.max(x1 - x0, 20), (height - 2 * margin) / Math.max(y1 - y0, 20));
    const dx = width / 2 - (scale * (x0 + x1)) / 2, dy = height / 2 - (scale * (y0 + y1)) / 2;
    view = { scale, at: (x, y) => [dx + scale * x, dy + scale * y] };
    roads(context, view);
    if (route.map) path(context, view, route.map.route, R.colour("route"), Math.max(2, Math.min(6, 1.2 * scale)));
    drivenPath(context);
    scaleBar(context, height);
    if (route.map) {
      label(context, ...view.at(...route.map.route[0]), "start");
      label(context, ...view.at(...route.map.route[route.map.route.length - 1]), "goal");
    }
    route.infractions.forEach((infraction, number) => {
      const [x, y] = view.at(...infraction.position_in_world);
      context.fillStyle = R.colour("bg"); disc(context, x, y, 10);
      context.fillStyle = R.colour("miss"); disc(context, x, y, 8.5);
      context.fillStyle = R.colour("bg"); context.font = R.font(11); context.textAlign = "center";
      context.fillText(String(number + 1), x, y + 4);
    });
    still = document.createElement("canvas");
    still.width = context.canvas.width;
    still.height = context.canvas.height;
    still.getContext("2d").drawImage(context.canvas, 0, 0);
    R.moveOnMap(R.current);
  };

  function roads(context, to) {
    if (!route.map) return;
    for (const [colour, more] of [["road-edge", 1.2], ["road", 0]]) {
      context.strokeStyle = R.colour(colour);
      for (const lane of route.map.lanes) {
        context.lineWidth = lane.width_m * to.scale + more;
        context.beginPath();
        lane.points.forEach(([x, y], k) => { const p = to.at(x, y); if (k) context.lineTo(...p); else context.moveTo(...p); });
        context.stroke();
      }
    }
  }

  function path(context, to, points, colour, lineWidth, dash = []) {
    context.strokeStyle = colour;
    context.lineWidth = lineWidth;
    context.setLineDash(dash);
    context.beginPath();
    points.forEach(([x, y], k) => { const p = to.at(x, y); if (k) context.lineTo(...p); else context.moveTo(...p); });
    context.stroke();
    context.setLineDash([]);
  }

  /** Every tick's piece of the way in the colour of its latency; the worst lie on top. */
  function drivenPath(context) {
    const bands = bandColours().map(() => new Path2D());
    for (let i = 1; i < route.n; i++) {
      const from = view.at(route.x_m[i - 1], route.y_m[i - 1]), to = view.at(route.x_m[i], route.y_m[i]);
      const gone = Math.hypot(to[0] - from[0], to[1] - from[1]) / view.scale;
      if (!(gone < LONGEST_TICK_M)) continue; // ticks are missing between them, or one has no place
      const band = bands[latencyBand(route.total_ms[i])];
      band.moveTo(...from); band.lineTo(...to);
    }
    bandColours().forEach((colour, band) => {
      context.strokeStyle = colour;
      context.lineWidth = band === 16 ? 4.5 : 3.5;
      context.stroke(bands[band]);
    });
  }

  function scaleBar(context, height) {
    const metres = [5, 10, 20, 50, 100, 200, 500, 1000].find((m) => m * view.scale > 50) || 2000;
    context.strokeStyle = context.fillStyle = R.colour("muted");
    context.lineWidth = 1.5;
    context.beginPath(); context.moveTo(12, height - 12); context.lineTo(12 + metres * view.scale, height - 12); context.stroke();
    context.font = R.font(11); context.textAlign = "left";
    context.fillText(`${metres} m`, 12, height - 17);
  }

  function label(context, x, y, text) {
    context.font = R.font(11);
    context.textAlign = "left";
    context.lineWidth = 3;
    context.strokeStyle = R.colour("panel"); context.strokeText(text, x + 7, y - 6);
    context.fillStyle = R.colour("ink"); context.fillText(text, x + 7, y - 6);
    disc(context, x, y, 3);
  }

  function disc(context, x, y, radius) {
    context.beginPath(); context.arc(x, y, radius, 0, 7); context.fill();
  }

  function nearestTick(event) {
    const box = R.get("map").getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = R.current, distance = Infinity;
    for (let i = 0; i < route.n; i++) {
      const [px, py] = view.at(route.x_m[i], route.y_m[i]);
      const away = (px - x) ** 2 + (py - y) ** 2;
      if (away < distance) { best = i; distance = away; }
    }
    return best;
  }

  /** The car on the map, heading its way. */
  R.moveOnMap = function (tick) {
    if (!still) return;
    const context = R.get("map").getContext("2d");
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, still.width, still.height);
    context.drawImage(still, 0, 0);
    context.restore();
    if (Number.isNaN(route.x_m[tick])) return;
    context.save();
    context.translate(...view.at(route.x_m[tick], route.y_m[tick]));
    context.rotate((route.yaw_deg[tick] * Math.PI) / 180);
    context.beginPath(); context.moveTo(10, 0); context.lineTo(-7, 6.5); context.lineTo(-4, 0); context.lineTo(-7, -6.5); context.closePath();
    context.fillStyle = R.colour("ink"); context.strokeStyle = R.colour("bg"); context.lineWidth = 2;
    context.stroke(); context.fill();
    context.restore();
  };

  /** The surroundings of a tick: the car looks up; roads, route, what was driven, the plan. */
  R.drawNear = function (tick) {
    const { context, width, height } = R.context(R.get("near"));
    const plan = R.plan(route, tick);
    const reach = Math.max(22, ...plan.map(([x]) => x + 6));
    const scale = Math.min((height - 24) / (reach + 8), 9);
    const origin = [width / 2, height - 10 - 7 * scale];
    const here = [route.x_m[tick], route.y_m[tick]], yaw = (route.yaw_deg[tick] * Math.PI) / 180;
    const inEgo = ([x, y]) => [origin[0] + scale * y, origin[1] - scale * x];
    if (!Number.isNaN(here[0])) {
      const c = Math.cos(yaw), s = Math.sin(yaw);
      const world = {
        scale,
        at: (x, y) => inEgo([c * (x - here[0]) + s * (y - here[1]), -s * (x - here[0]) + c * (y - here[1])]),
      };
      roads(context, world);
      if (route.map) path(context, world, route.map.route, R.colour("route"), 2, [5, 4]);
      const from = Math.max(0, tick - 200), to = Math.min(route.n, tick + 200);
      const driven = [];
      for (let i = from; i < to; i++) if (!Number.isNaN(route.x_m[i])) driven.push([route.x_m[i], route.y_m[i]]);
      path(context, world, driven, R.colour("driven"), 2);
    }
    const corner = inEgo([CAR_M.length / 2, -CAR_M.width / 2]);
    context.fillStyle = R.colour("ink");
    context.globalAlpha = 0.8;
    context.fillRect(corner[0], corner[1], CAR_M.width * scale, CAR_M.length * scale);
    context.globalAlpha = 1;
    path(context, { at: (x, y) => inEgo([x, y]) }, [[0, 0], ...plan], R.colour("plan"), 1.5);
    context.fillStyle = R.colour("plan");
    for (const point of plan) disc(context, ...inEgo(point), 3.2);
    context.fillStyle = R.colour("muted");
    context.font = R.font(11);
    context.textAlign = "left";
    if (!plan.length) context.fillText("no plan in this tick", 8, 16);
    context.strokeStyle = R.colour("muted");
    context.lineWidth = 1.5;
    context.beginPath(); context.moveTo(8, height - 8); context.lineTo(8 + 5 * scale, height - 8); context.stroke();
    context.fillText("5 m", 8, height - 12);
  };

  /** The camera's picture, and the plan on it by the planning camera's mounting; as the film draws it. */
  R.drawOverlay = function (tick) {
    const { context, width, height } = R.context(R.get("overlay"));
    const image = R.get("picture");
    if (!image.complete || !image.naturalWidth) return;
    const fit = Math.min(width / image.naturalWidth, height / image.naturalHeight);
    const size = [fit * image.naturalWidth, fit * image.naturalHeight];
    context.drawImage(image, (width - size[0]) / 2, (height - size[1]) / 2, ...size);
    const camera = planningCamera();
    const plan = R.plan(route, tick);
    if (!camera || !plan.length || Math.hypot(...plan[plan.length - 1]) < 0.5) return;
    const scale = Math.min(width / camera.width, height / camera.height);
    const focal = (scale * camera.width) / (2 * Math.tan((camera.fov * Math.PI) / 360));
    const yaw = (camera.yaw * Math.PI) / 180, pitch = (camera.pitch * Math.PI) / 180;
    const project = ([x, y]) => {
      const ahead = x - camera.x, aside = y - camera.y;
      const flat = Math.cos(yaw) * ahead + Math.sin(yaw) * aside, right = -Math.sin(yaw) * ahead + Math.cos(yaw) * aside;
      const depth = Math.cos(pitch) * flat - Math.sin(pitch) * camera.z, up = -Math.sin(pitch) * flat - Math.cos(pitch) * camera.z;
      return depth > 0.4 ? [width / 2 + (focal * right) / depth, height / 2 - (focal * up) / depth] : null;
    };
    const seen = [[0, 0], ...plan].map(project).filter((point) => point !== null);
    path(context, { at: (x, y) => [x, y] }, seen, "rgb(0 0 0 / .45)", 4);
    path(context, { at: (x, y) => [x, y] }, seen, R.colour("plan"), 2);
    for (const point of seen) {
      context.fillStyle = "rgb(0 0 0 / .5)"; disc(context, ...point, 4.5);
      context.fillStyle = R.colour("plan"); disc(context, ...point, 3.3);
    }
  };

  function planningCamera() {
    const rig = (route.header.config || {}).rig;
    return rig && rig.cameras ? rig.cameras.find((camera) => camera.id === rig.planning_camera) : null;
  }
})(TickReport);
