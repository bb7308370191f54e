// What is shown, as the part of the address behind the #: a link to a view is that view.

/** The board that the page opens on: of those that rank the most encoders, the first. */
function openingBoard() {
  const measured = BOARDS.filter((board) => !board.published);
  const offered = measured.length ? measured : BOARDS;
  const most = Math.max(...offered.map((board) => board.ranked));
  return offered.find((board) => board.ranked === most)?.id ?? "";
}

const DEFAULTS = {
  board: openingBoard(),
  encoder: "",
  section: "overall",
  sort: "rank",
  text: "",
  domain: "",
  budget: "",
  adaptation: "",
  relation: "",
  family: "",
  status: "",
  cost: "adaptation_flops",
};

const FILTERS = ["text", "domain", "budget", "adaptation", "relation", "family", "status"];

/** The state that an address stands for; what it names and does not exist is left out. */
function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  const state = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) {
    if (given.has(name)) state[name] = given.get(name);
  }
  const board = findBoard(state);
  if (!board) return { ...DEFAULTS };
  const offered = choices(board);
  for (const [name, values] of Object.entries(offered)) {
    if (!values.includes(state[name])) state[name] = DEFAULTS[name];
  }
  return state;
}

const findBoard = (state) => BOARDS.find((board) => board.id === state.board);

/** The values that each part of the state may have on a board. */
function choices(board) {
  const distinct = (values) => [...new Set(["", ...values])];
  const names = board.columns.map((one) => one.name);
  return {
    encoder: distinct(board.cards.map((card) => card.name)),
    section: sectionsOf(board).map(([section]) => section),
    sort: ["rank", "name", ...names].flatMap((name) => [name, `-${name}`]),
    domain: distinct(board.cells.map((cell) => cell.domain)),
    budget: distinct(board.cells.map((cell) => cell.budget)),
    adaptation: distinct(board.cells.map((cell) => cell.adaptation)),
    relation: ["", "intra", "inter"],
    family: distinct(board.encoders.map((card) => card.family).sort()),
    status: ["", ...(board.has("status") ? ["verified"] : [])],
    cost: COSTS.map(([name]) => name).filter((name) => board.has(name)),
  };
}

/** The address of a state: what is as usual is left out. */
function addressOf(state) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== DEFAULTS[name]) given.set(name, value);
  }
  return `#${given}`;
}
