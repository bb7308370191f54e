// The boards. Scores and ranks of a whole board are those of the data; only what the filters select
// is scored and ranked here, since no list of all selections could be shipped.

const DATA = JSON.parse(document.getElementById("data").textContent);
const BOARDS = DATA.boards.map(readBoard);

const bytesOf = (text) =>
  new DataView(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer);

/** Means of one result by encoder; null where a draw is missing. */
function unpack(packed) {
  if (typeof packed !== "string") return packed;
  const view = bytesOf(packed);
  return Array.from({ length: view.byteLength / 2 }, (_, position) => {
    const whole = view.getInt16(2 * position, true);
    return whole === -32768 ? null : whole / DATA.scale;
  });
}

/** One value by encoder: whole numbers, small ones, large ones, or texts; null where unknown. */
function column(values) {
  if (Array.isArray(values) || typeof values === "string") return unpack(values);
  if (values.float32) {
    const view = bytesOf(values.float32);
    return Array.from({ length: view.byteLength / 4 }, (_, position) => {
      const number = view.getFloat32(4 * position, true);
      return Number.isFinite(number) ? Number(number.toPrecision(5)) : null;
    });
  }
  return values.at.map((position) => (position === null ? null : values.texts[position]));
}

/** The value of a function, which is called when it is first asked for. */
function once(find) {
  let found;
  return () => (found ??= find());
}

/** A board whose numbers are read when they are first asked for; its own are those of a study. */
function readBoard(raw) {
  const values = new Map(
    Object.entries(raw.values).map(([name, one]) => [name, once(() => column(one))]),
  );
  const has = (name) => values.has(name);
  const value = (name, encoder) => values.get(name)?.()[encoder] ?? null;
  const encoders = raw.cards ?? raw.encoders.map((position) => DATA.encoders[position]);
  const cells = once(() => readCells(raw));
  const ranked = once(() => encoders.filter((_, at) => value("rank", at) !== null).length);
  return {
    ...raw,
    encoders,
    cards: raw.cards ?? DATA.encoders,
    label: raw.published
      ? `published: ${raw.suite}`
      : `${raw.protocol}: ${raw.suite}${raw.kind ? `, ${raw.kind} only` : ""}`,
    value,
    has,
    get cells() {
      return cells();
    },
    /** How many encoders have a rank. */
    get ranked() {
      return ranked();
    },
  };
}

/** One entry per task, adaptation and budget, with all of its test splits. */
function readCells({ results, series = DATA.series, published }) {
  const cells = new Map();
  for (const [task, domain, metric, split, adaptation, budget, chance, position] of results) {
    const key = JSON.stringify([task, adaptation, budget]);
    if (!cells.has(key)) {
      const optional = !published && DATA.optional.includes(adaptation);
      cells.set(key, {
        task,
        domain,
        metric,
        adaptation,
        budget,
        chance,
        optional,
        splits: new Map(),
      });
    }
    const one = series[position];
    cells.get(key).splits.set(split, { ...one, mean: unpack(one.mean) });
  }
  return [...cells.values()];
}

function mean(values) {
  if (!values.length || values.includes(null)) return null;
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

const byKey = (items, key) => [...Map.groupBy(items, key).values()];

/** Score of one cell: in-domain, or the mean over its other test splits; undefined without any. */
function cellScore(cell, encoder, outside) {
  const names = [...cell.splits.keys()].filter((name) => (name === "in_domain") !== outside);
  if (!names.length) return undefined;
  const value = mean(names.map((name) => cell.splits.get(name).mean[encoder]));
  return value === null ? null : (value - cell.chance) / (1 - cell.chance);
}

/** Mean over budgets and adaptations, then tasks, then domains; null unless all are there. */
function score(cells, encoder, outside = false) {
  const scored = cells
    .map((cell) => ({ ...cell, score: cellScore(cell, encoder, outside) }))
    .filter((cell) => cell.score !== undefined);
  const domains = byKey(scored, (cell) => cell.domain).map((domain) =>
    mean(byKey(domain, (cell) => cell.task).map((task) => mean(task.map((cell) => cell.score)))),
  );
  return mean(domains);
}

/** Whether the filters leave only a part of a board's cells. */
const selects = (state) =>
  ["domain", "budget", "adaptation", "relation"].some((name) => state[name] !== "");

/** The cells that the filters leave, of one encoder: the relation differs between encoders. */
function selected(board, state, encoder) {
  return board.cells.filter(
    (cell) =>
      (state.domain === "" || cell.domain === state.domain) &&
      (state.budget === "" || cell.budget === state.budget) &&
      (state.adaptation === "" ? !cell.optional : cell.adaptation === state.adaptation) &&
      (state.relation === "" || board.value(`relation_${cell.domain}`, encoder) === state.relation),
  );
}

/** Finished and expected cells (with draws) of the given ones. */
function coverage(cells, encoder) {
  let have = 0;
  let expected = 0;
  for (const { splits } of cells) {
    const inside = splits.get("in_domain");
    expected += inside.draws;
    have += inside.have[encoder] ?? inside.draws;
  }
  return { have, expected };
}

/** All encoders of a board under the filters: one row each, in the order of the board. */
function rankRows(board, state) {
  const part = selects(state);
  const rows = board.order.map((encoder, place) => {
    const card = board.encoders[encoder];
    const row = { card, encoder, place, value: (name) => board.value(name, encoder) };
    if (!part) {
      row.have = row.value("have");
      row.expected = row.value("expected");
      return row;
    }
    const cells = selected(board, state, encoder);
    const external = cells.filter((cell) => cell.splits.size > 1);
    Object.assign(row, coverage(cells, encoder));
    const complete = cells.length > 0 && row.have === row.expected;
    const inside = complete ? score(cells, encoder) : null;
    const outside = complete ? score(external, encoder, true) : null;
    const gap = outside === null ? null : score(external, encoder) - outside;
    const own = new Map([
      ["in_domain", inside],
      ["out_of_domain", outside],
      ["gap", gap],
    ]);
    row.value = (name) => (own.has(name) ? own.get(name) : board.value(name, encoder));
    return row;
  });
  if (part) {
    // Means over each encoder's own domains are means of different things.
    const comparable = state.relation === "" || state.domain !== "";
    const scores = rows.map((row) => row.value("in_domain")).filter((value) => value !== null);
    for (const row of rows) {
      const own = row.value("in_domain");
      row.rank =
        comparable && own !== null ? 1 + scores.filter((other) => other > own + 1e-9).length : null;
    }
  } else {
    for (const row of rows) row.rank = row.value("rank");
  }
  return rows;
}
