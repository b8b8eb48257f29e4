"use strict";
// Colours from the style sheet, small formatting, small DOM helpers.

(function (R) {
  let cache = {};
  R.colour = function (name) {
    if (!(name in cache)) {
      cache[name] = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    }
    return cache[name];
  };
  R.forgetColours = () => { cache = {}; };

  R.RUNGS = {
    planned: ["", "this tick's plan"],
    fewer_steps: ["near-budget", "a plan of fewer steps"],
    partial_sensors: ["half", "a plan without all sensors"],
    stale_features: ["stage1", "a plan on older features"],
    previous_plan: ["stage4", "the last good plan, shifted"],
    safe_stop: ["miss", "brakes"],
    busy: ["rest", "a plan being computed, the one in force followed"],
    hold: ["muted", "a plan being computed, control frozen"],
    failed: ["miss", "the planner's error ended the route"],
  };

  R.KINDS = {
    collisions_layout: "Collision with the town", collisions_pedestrian: "Collision with a pedestrian",
    collisions_vehicle: "Collision with a vehicle", red_light: "Red light run", stop_infraction: "Stop sign run",
    outside_route_lanes: "Outside the route's lanes", min_speed_infractions: "Slower than the traffic",
    yield_emergency_vehicle_infractions: "Did not yield to an emergency vehicle", scenario_timeouts: "Scenario timeout",
    route_dev: "Left the route", vehicle_blocked: "Blocked", route_timeout: "Route timeout",
  };

  /** Fixed digits, or a dash where there is no number. */
  R.fixed = (value, digits = 1) => (value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(digits));
  R.percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");

  /** Element with properties and children; strings become text, so nothing from a log is ever read as markup. */
  R.el = function (tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(properties)) {
      if (key === "class") element.className = value;
      else if (key.startsWith("--")) element.style.setProperty(key, value);
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  R.get = (id) => document.getElementById(id);
  R.fill = (id, ...children) => R.get(id).replaceChildren(...children.filter((child) => child !== null));
  R.key = (colour, dot = false) => R.el("i", { class: dot ? "key dot" : "key", "--key": `var(--${colour})` });

  /** Sizes a canvas to its box and gives its context, scaled to CSS pixels and cleared. */
  R.context = function (canvas) {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.lineJoin = context.lineCap = "round";
    return { context, width, height };
  };
  R.font = (px) => `${px}px system-ui, -apple-system, "Segoe UI", Roboto, Arial, "DejaVu Sans", sans-serif`;
})(TickReport);
