// Charts: Vega-Lite specifications from the page's data, filled with rows made here.

const COSTS = [
  ["adaptation_flops", "Adaptation"],
  ["inference_flops_per_image", "Inference, per image"],
  ["total_flops", "Pre-training and adaptation"],
];
const MOST_CURVES = 8;
const MOST_LABEL = 140; // pixels
const tooltip = document.getElementById("tooltip");
let drawn = [];

/** A colour of the style sheet as the present theme has it. */
function style(name) {
  tooltip.style.outlineColor = `var(${name})`;
  return getComputedStyle(tooltip).outlineColor;
}

/** The page's colours and letters, by the names that the specifications use. */
function theme() {
  const [ink, muted, line, accent] = ["--ink", "--muted", "--line", "--accent"].map(style);
  const curves = Array.from({ length: MOST_CURVES }, (_, at) => style(`--curve-${at + 1}`));
  const font = getComputedStyle(document.body).fontFamily;
  return {
    background: "transparent",
    font,
    aria: false,
    view: { stroke: null },
    axis: {
      labelColor: muted,
      titleColor: muted,
      titleFontWeight: "normal",
      labelFontSize: 11,
      titleFontSize: 12,
      gridColor: line,
      gridOpacity: 0.6,
      domainColor: muted,
      tickColor: muted,
    },
    range: { category: curves, heatmap: [style("--heat-low"), style("--heat-high")] },
    circle: { cursor: "pointer" },
    text: { color: ink, fontSize: 11 },
    style: {
      front: { stroke: accent, strokeWidth: 1.2, opacity: 0.7 },
    },
  };
}

/** Draw a chart; its numbers follow as a table for those who cannot see it. */
async function draw(place, name, rows, { label, size = {}, range = {} }) {
  const inner = make("div", { "aria-hidden": "true" });
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", label);
  place.append(inner);
  const look = theme();
  const result = await vegaEmbed(
    inner,
    { ...DATA.charts[name], ...size, datasets: { rows } },
    {
      mode: "vega-lite",
      renderer: "svg",
      actions: false,
      // Expressions are interpreted: the security policy forbids to compile them.
      ast: true,
      defaultStyle: false,
      tooltip: showTooltip,
      config: { ...look, range: { ...look.range, ...range } },
    },
  );
  drawn.push(result);
  return result;
}

function clearFigures() {
  for (const result of drawn) result.finalize();
  drawn = [];
  tooltip.hidden = true;
}

/** Vega's tooltip handler: labelled values as text. */
function showTooltip(_, event, item, value) {
  tooltip.hidden = !value;
  if (!value) return;
  const lines = Object.entries(value).map(([name, text]) => [
    make("dt", {}, name),
    make("dd", {}, foreign(text, 60)),
  ]);
  tooltip.replaceChildren(make("dl", {}, lines));
  const { width, height } = tooltip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, document.documentElement.clientWidth - width - 8);
  const top =
    event.clientY + height + 20 > innerHeight ? event.clientY - height - 10 : event.clientY + 14;
  tooltip.style.left = `${Math.max(8, left)}px`;
  tooltip.style.top = `${Math.max(8, top)}px`;
}

/** Score and cost of every encoder that has both; best: on the Pareto front. */
function costRows(rows, cost) {
  const known = rows
    .map((row) => ({ row, score: row.value("in_domain"), cost: row.value(cost) }))
    .filter(({ score, cost }) => score !== null && cost > 0);
  return known.map(({ row, score, cost }) => {
    const beaten = known.some(
      (other) =>
        other.score >= score && other.cost <= cost && (other.score > score || other.cost < cost),
    );
    return { encoder: row.card.name, score, cost, best: beaten ? "no" : "yes", left: "", right: "" };
  });
}

const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;

/** The rows with names beside their points, on a side that is free: the front's, then the best. */
function labelled(rows, view) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const [across, up] = ["x", "y"].map((name) => view.scale(name));
  const places = rows.map(({ cost, score }) => ({ x: across(cost), y: up(score) }));
  const taken = places.map(({ x, y }) => ({
    left: x - 5,
    right: x + 5,
    top: y - 5,
    bottom: y + 5,
  }));
  const order = rows.map((_, at) => at);
  order.sort((a, b) => (rows[b].best === "yes") - (rows[a].best === "yes") || a - b);
  const edge = across.range()[1];
  // By their names: Vega knows a row again by a symbol of its own, which must not be copied.
  const found = rows.map(({ encoder, score, cost, best }) => ({
    encoder,
    score,
    cost,
    best,
    left: "",
    right: "",
  }));
  for (const at of order) {
    const name = rows[at].encoder;
    const { x, y } = places[at];
    const width = Math.min(pen.measureText(name).width, MOST_LABEL) + 2;
    const sides = { right: x + 6, left: x - 6 - width };
    for (const [side, left] of Object.entries(sides)) {
      const box = { left, right: left + width, top: y - 15, bottom: y - 3 };
      if (left < 0 || box.right > edge || taken.some((other) => meet(box, other))) continue;
      found[at][side] = name;
      taken.push(box);
      break;
    }
  }
  return found;
}

/** Score over budget of some encoders, by adaptation, over the tasks that have every budget. */
function curveRows(board, state, rows) {
  const domain = board.cells.filter((cell) => state.domain === "" || cell.domain === state.domain);
  return byKey(domain, (cell) => cell.adaptation)
    .map((cells) => {
      const budgets = [...new Set(cells.map((cell) => cell.budget))];
      const whole = byKey(cells, (cell) => cell.task).filter(
        (task) => task.length === budgets.length,
      );
      const points = rows.flatMap(({ card, encoder }) =>
        budgets.map((budget) => {
          const chosen = whole.flat().filter((cell) => cell.budget === budget);
          return { encoder: card.name, budget, score: score(chosen, encoder) };
        }),
      );
      return {
        adaptation: cells[0].adaptation,
        tasks: whole.length,
        budgets,
        points: points.filter((point) => point.score !== null),
      };
    })
    .filter(({ budgets, points }) => budgets.length > 1 && points.length);
}

function numbers(caption, head, rows) {
  return make("details", {}, make("summary", {}, "The numbers"), plainTable(caption, head, rows));
}

const empty = (text) => make("p", { class: "empty" }, text);

/** A figure that has nothing to show yet, and what it needs. */
const lacking = (id, title, text) => [section(id, title, empty(text)), null];

function section(id, title, ...children) {
  return make("section", { "aria-labelledby": id }, make("h2", { id }, title), children);
}

function costFigure(board, state, ranked) {
  const offered = COSTS.filter(([name]) => board.columns.some((one) => one.name === name));
  const rows = costRows(ranked, state.cost);
  const title = "Score against cost";
  if (!rows.length) {
    const reason =
      "Needs a ranked encoder with this cost; the cost of pre-training is declared in its card.";
    return [section("cost", title, menu("cost", "Cost", offered, state.cost), empty(reason)), null];
  }
  const place = make("div", { class: "chart" });
  const missing = ranked.length - rows.length;
  const note = [
    "The line is the Pareto front: encoders that no other beats at their cost.",
    missing
      ? `${missing} with an unknown cost, or none, ${missing > 1 ? "are" : "is"} not shown.`
      : "",
    selects(state) ? "Costs are those of the whole board." : "",
  ];
  const chosen = offered.find(([name]) => name === state.cost)[1];
  const sorted = [...rows].sort((a, b) => a.cost - b.cost);
  const element = section(
    "cost",
    title,
    menu("cost", "Cost", offered, state.cost),
    place,
    remark(note.filter(Boolean).join(" ")),
    numbers(
      title,
      ["Encoder", "FLOPs", "Score", "On the front"],
      sorted.map((row) => [
        foreign(row.encoder, 40),
        quantity(row.cost, "FLOP"),
        quantity(row.score, "score"),
        row.best,
      ]),
    ),
  );
  return [
    element,
    async () => {
      const label = `${title} (${chosen}): ${rows.length} encoders`;
      const result = await draw(place, "cost", rows, {
        label,
        range: { category: [style("--accent"), style("--faint")] },
      });
      const { view } = result;
      const relabel = () => view.data("rows", labelled(rows, view)).runAsync();
      view.addSignalListener("width", relabel);
      await relabel();
      view.addEventListener("click", (_, item) => {
        if (item?.datum?.encoder)
          location.hash = addressOf({ ...readState(), encoder: item.datum.encoder });
      });
    },
  ];
}

function curveFigure(board, state, ranked) {
  const title = "Few-shot curves";
  const shown = ranked.slice(0, MOST_CURVES);
  const curves = curveRows(board, state, shown);
  if (!curves.length) {
    return lacking(
      "curves",
      title,
      "Needs records of a ranked encoder with one adaptation at two budgets or more.",
    );
  }
  const legend = make(
    "ul",
    { class: "legend" },
    shown.map(({ card }, at) => {
      const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = `var(--curve-${at + 1})`;
      return make("li", {}, swatch, foreign(card.name, 40));
    }),
  );
  const places = curves.map(() => make("div", { class: "chart" }));
  const figures = curves.map(({ adaptation, tasks }, at) =>
    make(
      "figure",
      {},
      make(
        "figcaption",
        {},
        make("b", {}, foreign(adaptation, 40)),
        ` ${tasks} task${tasks > 1 ? "s" : ""}`,
      ),
      places[at],
    ),
  );
  const rows = curves.flatMap(({ adaptation, points }) =>
    points.map((point) => [
      foreign(point.encoder, 40),
      foreign(adaptation, 40),
      point.budget,
      quantity(point.score, "score"),
    ]),
  );
  const note = `In-domain score of the first ${shown.length > 1 ? `${shown.length} ranked encoders` : "ranked encoder"} of the table, over the tasks that have every budget of the adaptation.`;
  const element = section(
    "curves",
    title,
    legend,
    make("div", { class: "figures" }, figures),
    remark(note),
    numbers(title, ["Encoder", "Adaptation", "Budget", "Score"], rows),
  );
  return [
    element,
    async () => {
      for (const [at, { adaptation, points }] of curves.entries()) {
        const label = `Score over budget, ${adaptation}: ${shown.length} encoders`;
        await draw(places[at], "curve", points, { label });
      }
    },
  ];
}
