// What leads on: the two lines to begin with, and how to open this page from another machine.

import { command } from "./copy.js";
import { node } from "./nodes.js";

const PORT = 8080;
const shown = { port: 0 };

/** Show the first steps while there is no identity, and no request; all lists would be empty then. */
export function showBegin({ identities, totals, proxy }) {
  const isEmpty = !identities.length && !proxy.closed;
  const hasNothing = isEmpty && !totals.requests && !totals.under_way;
  node("begin-section").hidden = !isEmpty;
  node("lists").hidden = hasNothing;
  showCommands(Number(/:(\d+)$/.exec(proxy.listens[0] ?? "")?.[1] ?? PORT));
}

function showCommands(port) {
  if (shown.port === port) return;
  shown.port = port;
  const proxy = `http://127.0.0.1:${port}`;
  const commands = {
    "begin-add": "codexpool add NAME",
    "begin-client": `eval "$(codexpool env)" && codex`,
    "away-forward": `ssh -N -L ${port}:127.0.0.1:${port} HOST`,
    "away-open": `chromium --user-data-dir="$(mktemp -d)" --proxy-server=${proxy} http://codex.pool/`,
  };
  for (const [id, text] of Object.entries(commands)) node(id).replaceChildren(command(text));
}
