// From the address to the page, and from input to the address.

const main = document.getElementById("main");
let last = null;

function boardMenus(board, state) {
  const offered = choices(board);
  const all = (values) => values.map((value) => [value, value || "all"]);
  const filters = [
    ["domain", "Domain", all(offered.domain)],
    ["budget", "Budget", all(offered.budget)],
    [
      "adaptation",
      "Adaptation",
      offered.adaptation.map((value) => [
        value,
        value === "" ? "all ranked" : DATA.optional.includes(value) ? `${value} (optional)` : value,
      ]),
    ],
    ["relation", "Relation", all(offered.relation)],
    ["family", "Architecture", all(offered.family)],
    ["status", "Status", all(offered.status)],
  ].filter(([name, , options]) => options.length > 2 || (name === "status" && options.length > 1));
  const search = make("input", {
    type: "search",
    name: "text",
    value: state.text,
    autocomplete: "off",
    placeholder: "name, title",
  });
  return make(
    "form",
    { role: "search", "aria-label": "Filters" },
    make("label", {}, make("span", {}, "Encoder"), search),
    filters.map(([name, label, options]) => menu(name, label, options, state[name])),
    make("button", { type: "reset" }, "Clear"),
  );
}

/** Explanation of the numbers of the table. */
function explanation(board, state) {
  if (!selects(state)) {
    if (board.published) {
      return "Ranked by the score over every cell of the study. Intra and inter scores are over the targets with that relation to the encoder; to compare encoders of different source domains, choose a domain.";
    }
    const parts = ["Ranked by the in-domain score over every cell of the board."];
    if (board.has("rank_low")) parts.push("Intervals are at 95 %.");
    if (board.has("tie")) parts.push("Encoders between two rules are tied with the first of them.");
    return parts.join(" ");
  }
  const own = {
    domain: "domain",
    budget: "budget",
    adaptation: "adaptation",
    relation: "relation",
  };
  const chosen = Object.keys(own)
    .filter((name) => state[name] !== "")
    .map((name) => `${name} ${state[name]}`);
  const incomparable = state.relation !== "" && state.domain === "";
  const intervals = board.has("rank_low")
    ? "Ranks are over this part; intervals are available for the whole board only."
    : "Ranks are over this part.";
  return (
    `Recomputed over a part of the cells (${chosen.join(", ")}), for the encoders that have all of them. ` +
    (incomparable
      ? "Each encoder's mean is over its own domains, so there are no ranks; choose a domain to compare."
      : intervals)
  );
}

function sectionMenu(board, state) {
  const buttons = sectionsOf(board).map(([name, title]) =>
    make(
      "button",
      { type: "button", "data-section": name, "aria-pressed": String(name === state.section) },
      title,
    ),
  );
  return make("div", { class: "sections", role: "group", "aria-label": "Columns" }, buttons);
}

function boardHead(board, state, shown) {
  const ranked = shown.filter((row) => row.rank !== null).length;
  const total = board.encoders.length;
  const count = shown.length === total ? `${total}` : `${shown.length} of ${total}`;
  return make(
    "div",
    { class: "above" },
    remark(
      make(
        "span",
        { role: "status", id: "count" },
        `${count} encoder${total > 1 ? "s" : ""}, ${ranked} ranked. `,
      ),
      explanation(board, state),
    ),
    selects(state) ? null : sectionMenu(board, state),
  );
}

function boardView(board, state) {
  const rows = rankRows(board, state).filter((row) => row.expected > 0);
  const shown = sortRows(filterRows(rows, state), state.sort);
  const ranked = shown.filter((row) => row.value("in_domain") !== null);
  const figures = board.published
    ? [curveFigure(board, state, ranked), domainFigure(board, state, shown)]
    : [costFigure, curveFigure, domainFigure, adaptedFigure, outcomeFigure].map((figure) =>
        figure(board, state, ranked),
      );
  const table = shown.length
    ? boardTable(board, state, shown)
    : empty("No encoder matches the filters.");
  const notes = board.notes.length
    ? section("notes", "Notes", bullets(board.notes.map((note) => foreign(note, 500))))
    : null;
  const view = [
    boardHead(board, state, shown),
    table,
    (board.said ?? []).map((line) => remark(foreign(line, 2000))),
    board.published ? [findingsSection(board), targetsSection(board)] : null,
    figures.map(([element]) => element),
    notes,
  ];
  return [view.flat(), figures.map(([, drawing]) => drawing).filter(Boolean)];
}

/** The boards by origin; the menu has no groups where all are measured. */
function offeredBoards() {
  const names = (boards) => boards.map((one) => [one.id, one.label]);
  const [published, measured] = [true, false].map((origin) =>
    names(BOARDS.filter((board) => Boolean(board.published) === origin)),
  );
  if (!published.length) return measured;
  const groups = [
    ["Measured", measured],
    ["Published by others", published],
  ];
  return groups.filter(([, boards]) => boards.length);
}

/** Show what the address says; the filters stay as they are while one types in them. */
function render() {
  const state = readState();
  const board = findBoard(state);
  if (!board) {
    main.replaceChildren(
      empty("No records yet. bench evaluate writes them, and bench leaderboard shows them here."),
    );
    return;
  }
  clearFigures();
  const frame = `${state.board} ${state.encoder}`;
  const turned = frame !== last;
  if (turned) {
    main.replaceChildren(
      make(
        "div",
        { class: "boards" },
        menu("board", "Board", offeredBoards(), board.id),
        board.published
          ? null
          : remark(foreign(board.title || "This protocol is not shipped", 200)),
      ),
      ...(board.published ? [originNote(board)] : []),
      ...(state.encoder ? [] : [boardMenus(board, state)]),
      make("div", { id: "view" }),
    );
  }
  for (const control of main.querySelectorAll("form [name]")) {
    if (control.value !== state[control.name]) control.value = state[control.name];
  }
  const view = document.getElementById("view");
  const scrolled = view.querySelector(".board")?.scrollLeft ?? 0;
  let drawings = [];
  if (state.encoder) {
    view.replaceChildren(encoderView(board, state));
  } else {
    const [elements, waiting] = boardView(board, state);
    view.replaceChildren(...elements.filter((element) => element !== null));
    drawings = waiting;
    const table = view.querySelector(".board");
    if (table) table.scrollLeft = scrolled;
  }
  document.title = `${state.encoder || board.label} \u2013 medtransfer leaderboard`;
  if (last !== null && turned) {
    scrollTo(0, 0);
    (document.getElementById("encoder") ?? main).focus();
  }
  last = frame;
  drawAll(drawings);
}

/** One chart after the other, unless something else is shown by then. */
async function drawAll(drawings) {
  const turn = (drawAll.turn = (drawAll.turn ?? 0) + 1);
  document.body.removeAttribute("data-drawn");
  for (const drawing of drawings) {
    if (turn !== drawAll.turn) return;
    await drawing();
  }
  if (turn === drawAll.turn) document.body.setAttribute("data-drawn", "");
}

/** Change the state: another board or encoder is a step that Back undoes, a filter is none. */
function change(changes) {
  const address = addressOf({ ...readState(), ...changes });
  if ("board" in changes) {
    location.hash = address;
  } else {
    history.replaceState(null, "", address);
    render();
  }
}

/** Repeat the focus on what stands where the focused button stood before. */
function keepFocus(selector, act) {
  act();
  main.querySelector(selector)?.focus();
}

main.addEventListener("input", ({ target }) => {
  if (target.name === "text") change({ text: target.value });
});
main.addEventListener("change", ({ target }) => {
  if (!(target instanceof HTMLSelectElement)) return;
  const name = target.name;
  keepFocus(`select[name="${name}"]`, () => change({ [name]: target.value }));
});
main.addEventListener("submit", (event) => event.preventDefault());
main.addEventListener("reset", (event) => {
  event.preventDefault();
  change(Object.fromEntries(FILTERS.map((name) => [name, DEFAULTS[name]])));
});
main.addEventListener("click", ({ target }) => {
  const button = target.closest("button[data-sort], button[data-section]");
  if (!button) return;
  const { sort, section } = button.dataset;
  if (section) {
    keepFocus(`[data-section="${section}"]`, () => change({ section }));
  } else {
    const position = [...button.closest("tr").children].indexOf(button.closest("th")) + 1;
    keepFocus(`thead th:nth-child(${position}) button`, () => change({ sort }));
  }
});
addEventListener("hashchange", render);

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const toggle = document.getElementById("theme");

/** The theme that was chosen by hand, or what the system prefers. */
const currentTheme = () =>
  document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light");

function applyTheme(chosen) {
  if (["light", "dark"].includes(chosen)) document.documentElement.dataset.theme = chosen;
  toggle.setAttribute("aria-pressed", String(currentTheme() === "dark"));
}

/** What the browser remembers; a page opened from disk may not be let to. */
function remembered() {
  try {
    return localStorage.getItem("medtransfer-theme");
  } catch {
    return null;
  }
}

toggle.addEventListener("click", () => {
  const chosen = currentTheme() === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("medtransfer-theme", chosen);
  } catch {
    // Then it holds for this visit.
  }
  applyTheme(chosen);
  render();
});
prefersDark.addEventListener("change", () => {
  applyTheme(null);
  render();
});
applyTheme(remembered());
render();
