// One encoder: its card, its ranks, and its results task by task.

function cardList(card) {
  const value = (label, text) => (label === "Address" ? address(text) : foreign(text, 400));
  const lines = card.facts.map(([label, text]) => [
    make("dt", {}, label),
    make("dd", {}, value(label, text)),
  ]);
  return make("dl", { class: "card" }, lines);
}

/** Its rank on every board where it has records. */
function places(card, state) {
  const rows = BOARDS.flatMap((board) => {
    const encoder = board.encoders.indexOf(card);
    if (encoder < 0) return [];
    const value = (name) => board.value(name, encoder);
    const [low, high] = [value("rank_low"), value("rank_high")];
    return [
      [
        make("a", { href: addressOf({ ...state, board: board.id }) }, foreign(board.label, 80)),
        value("rank") === null ? MISSING : `${value("rank")} of ${board.ranked}`,
        low === null ? MISSING : bounds(low, high),
        quantity(value("in_domain"), "score"),
        quantity(value("out_of_domain"), "score"),
        `${value("have")} of ${value("expected")}`,
      ],
    ];
  });
  const head = ["Board", "Rank", "Interval", "In-domain", "Out-of-domain", "Cells"];
  return plainTable("Boards", head, rows);
}

function relations(board, encoder) {
  const domains = [...new Set(board.cells.map((cell) => cell.domain))].sort();
  const words = [
    ...Map.groupBy(domains, (domain) => board.value(`relation_${domain}`, encoder)),
  ].map(([relation, own]) => `${RELATIONS[relation] ?? "not declared"}: ${own.join(", ")}`);
  return remark(
    `Relation of its pre-training to the domains, ${words.join("; ")}.`,
  );
}

/** One result: the mean, its interval, and missing or diverged draws. */
function resultCell(cell, split, encoder) {
  const series = cell?.splits.get(split);
  if (!series) return "";
  const value = series.mean[encoder];
  if (value === null) {
    const have = series.have?.[encoder];
    return have ? `${have}/${series.draws} draws` : MISSING;
  }
  const parts = [quantity(value, "score")];
  const [low, high] = ["low", "high"].map((name) => unpackOne(series[name], encoder));
  if (low !== null) {
    parts.push(make("small", {}, ` [${quantity(low, "score")}, ${quantity(high, "score")}]`));
  }
  if (series.diverged?.[encoder]) {
    parts.push(make("sup", { title: "Training diverged; counts as chance" }, "diverged"));
  }
  return make("span", {}, parts);
}

const unpackOne = (packed, encoder) => (packed ? (unpack(packed)[encoder] ?? null) : null);

/** Tasks and test splits by budget, a table for each adaptation. */
function results(board, encoder) {
  const first = board.published ? "Target" : "Task and test split";
  const ran = (cells) => !cells[0].optional || coverage(cells, encoder).have > 0;
  return byKey(board.cells, (cell) => cell.adaptation)
    .filter(ran)
    .map((cells) => {
      const budgets = [...new Set(cells.map((cell) => cell.budget))];
      const rows = byKey(cells, (cell) => cell.task).flatMap((own) => {
        const splits = [...own[0].splits.keys()];
        return splits.map((split) => [
          make(
            "span",
            {},
            foreign(own[0].task, 60),
            board.published
              ? null
              : make("span", { class: "title" }, foreign(split.replace("_", "-"), 60)),
          ),
          own[0].metric ?? MISSING,
          ...budgets.map((budget) =>
            resultCell(
              own.find((cell) => cell.budget === budget),
              split,
              encoder,
            ),
          ),
        ]);
      });
      const [{ adaptation }] = cells;
      const title = make(
        "h3",
        {},
        foreign(adaptation, 40),
        cells[0].optional ? " (optional, not ranked)" : "",
      );
      return [
        title,
        plainTable(`Results, ${adaptation}`, [first, "Metric", ...budgets], rows),
      ];
    });
}

/** The whole view of an encoder. */
function encoderView(board, state) {
  const card = board.cards.find((one) => one.name === state.encoder);
  const encoder = board.encoders.indexOf(card);
  const back = make(
    "p",
    {},
    make("a", { href: addressOf({ ...state, encoder: "" }) }, "All encoders"),
  );
  const title = make("h2", { id: "encoder", tabindex: "-1" }, foreign(card.name, 80));
  const parts = [
    back,
    title,
    card.title ? make("p", { class: "lede" }, foreign(card.title, 300)) : null,
    cardList(card),
  ];
  // A published encoder stands on one board, and that is the one it is opened from.
  if (!board.published) parts.push(make("h2", {}, "Ranks"), places(card, state));
  parts.push(make("h2", {}, "Results, ", foreign(board.label, 80)));
  if (encoder < 0) parts.push(empty("Needs records of the tasks of this board."));
  else parts.push(relations(board, encoder), results(board, encoder));
  return make(
    "article",
    { "aria-labelledby": "encoder" },
    parts.flat(2).filter((part) => part !== null),
  );
}
