// Transfer: source domains, further pre-training, transferability scores.

/** Mean score, of the encoders with every cell, of each source domain on each target domain. */
function domainRows(board, state, rows) {
  const cells = board.cells.filter(
    (cell) =>
      (state.domain === "" || cell.domain === state.domain) &&
      (state.budget === "" || cell.budget === state.budget) &&
      (state.adaptation === "" ? !cell.optional : cell.adaptation === state.adaptation),
  );
  const targets = [...new Set(cells.map((cell) => cell.domain))].sort();
  const found = byKey(rows, (row) => row.card.source).flatMap((group) =>
    targets.map((target) => {
      const own = cells.filter((cell) => cell.domain === target);
      const scores = group.map((row) => score(own, row.encoder)).filter((value) => value !== null);
      const intra = group[0].value(`relation_${target}`) === "intra" ? "yes" : "no";
      return {
        source: group[0].card.source,
        target,
        score: mean(scores),
        encoders: scores.length,
        intra,
      };
    }),
  );
  const known = found.filter((row) => row.score !== null);
  const scores = known.map((row) => row.score);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const [faint, strong, outline] = ["--heat-ink-low", "--heat-ink-high", "--ink"].map(style);
  const ink = (value) => ((value - low) / (high - low || 1) < 0.68 ? faint : strong);
  return known
    .map((row) => ({ ...row, ink: ink(row.score), outline }))
    .sort((a, b) => a.source.localeCompare(b.source, "en"));
}

function domainFigure(board, state, ranked) {
  const title = "Source and target domains";
  const rows = domainRows(board, state, ranked);
  if (!rows.length) {
    return lacking(
      "domains",
      title,
      "Needs a ranked encoder whose card declares its pre-training domains.",
    );
  }
  const place = make("div", { class: "chart" });
  const who = board.published
    ? "encoders that have every cell of the domain,"
    : "ranked encoders";
  const note =
    `Mean score of the ${who} by source domain (rows) and domain of the task (columns). Outlined: pre-trained on that domain.`;
  const element = section(
    "domains",
    title,
    place,
    remark(note),
    numbers(
      title,
      ["Pre-trained on", "Task's domain", "Mean score", "Encoders"],
      rows.map((row) => [
        foreign(row.source, 60),
        row.target,
        quantity(row.score, "score"),
        String(row.encoders),
      ]),
    ),
  );
  const size = { height: 34 * new Set(rows.map((row) => row.source)).size };
  return [
    element,
    () => draw(place, "domains", rows, { label: `${title}: ${rows.length} pairs`, size }),
  ];
}

/** Encoders pre-trained further, with their parents, by compute. */
function adaptedFigure(board, state, ranked) {
  const title = "Further pre-training";
  const known = ranked.filter((row) => row.value("rank") !== null);
  const own = known.filter((row) => row.value("init") !== null);
  if (!own.length) {
    return lacking(
      "adapted",
      title,
      "Needs a ranked encoder whose card names its parent (pretraining.init); shows scores in-domain, external and corrupted against the compute of the pre-training.",
    );
  }
  const parents = new Set(own.map((row) => row.value("init")));
  const shown = known.filter((row) => own.includes(row) || parents.has(row.card.name));
  const names = ["in_domain", "external", "corrupted", "pretraining_flops"];
  const columns = names
    .map((name) => board.columns.find((one) => one.name === name))
    .filter((one) => one !== undefined);
  const value = (row, one) => board.value(one.name, row.encoder);
  const compute = (row) => board.value("pretraining_flops", row.encoder) ?? Infinity;
  shown.sort((a, b) => compute(a) - compute(b) || a.place - b.place);
  const rows = shown.map((row) => [
    foreign(row.card.name, 40),
    foreign(row.value("init") ?? MISSING, 40),
    foreign(row.value("trained") ?? MISSING, 80),
    ...columns.map((one) => quantity(value(row, one), one.unit)),
  ]);
  const note =
    "Ranked encoders pre-trained further, with their parents, by the compute of the pre-training; over the whole board.";
  return [
    section(
      "adapted",
      title,
      remark(note),
      plainTable(title, ["Encoder", "From", "Trained", ...columns.map((one) => one.title)], rows),
    ),
    null,
  ];
}

/** Validation of transferability scores; over the whole board. */
function outcomeFigure(board) {
  const title = "Transferability score against outcome";
  if (!board.validation) {
    return lacking(
      "outcomes",
      title,
      "Needs transferability scores of at least three encoders (bench score).",
    );
  }
  const { over_all, single } = board.validation;
  const texts = (rows, columns) =>
    rows.map((row) => row.map((value, at) => (at < columns ? foreign(value, 60) : value)));
  const note =
    "Correlations over the encoders of a task, averaged over tasks, between scores from training images alone and the in-domain metric; in parentheses 95 % intervals from a bootstrap over encoders and tasks. Weighted tau weighs the best encoders most. Regret: metric of the best encoder minus that of the encoder with the highest score. Cost: FLOPs of the score over those of the adaptation.";
  return [
    section(
      "outcomes",
      title,
      remark(note),
      plainTable(title, over_all.head, texts(over_all.rows, 3)),
      folded("Task by task", () =>
        plainTable(`${title}, task by task`, single.head, texts(single.rows, 5)),
      ),
    ),
    null,
  ];
}
