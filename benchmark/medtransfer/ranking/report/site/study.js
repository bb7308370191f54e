// A published study: origin, findings, and results by every metric.

function originNote({ title, published }) {
  return make(
    "div",
    { class: "origin" },
    make(
      "p",
      {},
      make("strong", {}, "Published by others, not measured here."),
      " Protocol, test sets and preprocessing are the study\u2019s own: nothing here may be compared with another board.",
    ),
    remark(
      foreign(title, 300),
      ". ",
      foreign(published.citation, 300),
      ". Licence of the numbers: ",
      foreign(published.licence, 100),
      ". ",
      foreign(published.url, 200),
    ),
  );
}

/** Each finding with its verdict and a summary; the comparisons are folded. */
function findingsSection({ published }) {
  const title = "Findings of the study, recomputed";
  if (!published.findings.length) {
    return section(
      "findings",
      title,
      empty("Needs claims of the study, as comparisons in its mapping (findings)."),
    );
  }
  const parts = published.findings.map(({ title, text, shown, lines, head, rows }) => [
    make("h3", {}, foreign(title, 200)),
    make(
      "p",
      { class: "finding" },
      make("strong", { class: shown ? "shown" : null }, shown ? "Shown." : "Not shown."),
      " ",
      foreign(text, 1000),
    ),
    bullets(lines),
    folded("Comparisons", () => plainTable(title, head, rows)),
  ]);
  return section("findings", title, parts, remark(published.reading));
}

function targetsSection({ published }) {
  const title = "Results by target";
  const note = "Mean and standard deviation over the draws, by every metric of the study.";
  const parts = published.targets.map(({ name, title, tables }) =>
    folded(title ? `${name}: ${title}` : name, () =>
      tables.map(({ metric, head, rows }) => [
        make("h3", {}, foreign(metric, 60)),
        plainTable(`${name}, ${metric}`, head, rows),
      ]),
    ),
  );
  return section("targets", title, remark(note), parts);
}

/** Details that are made when they are first opened. */
function folded(summary, fill) {
  const details = make("details", {}, make("summary", {}, foreign(summary, 120)));
  details.addEventListener("toggle", () => details.append(...[fill()].flat(Infinity)), {
    once: true,
  });
  return details;
}
