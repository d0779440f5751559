import { accountPhase, idOf, keyState, type Account, type ServiceKey } from "./kinds.js";

export interface TreeNode {
  /** `tenant`, `a:<name>` or `k:<namespace>/<name>`. */
  id: string;
  level: 1 | 2 | 3;
  name: string;
  state: string;
  /** Of an account: its keys by state, also when they are not shown. */
  counts?: Map<string, number>;
  total: number;
  children: TreeNode[];
}

/** One node with its place: `x` runs along the levels, `y` down the rows, both in units of one. */
export interface Placed {
  node: TreeNode;
  parent?: Placed;
  x: number;
  y: number;
  /** Rows of its first and its last child; it may be drawn anywhere between. */
  first: number;
  last: number;
  open: boolean;
  position: number;
  siblings: number;
}

const byName = (a: TreeNode, b: TreeNode) => a.name.localeCompare(b.name, undefined, { numeric: true });

/** Every key has one parent, so this is a forest; the tenant makes it a tree. Keys of an account that is gone hang under its name. */
export function forest(tenant: { name: string; state: string }, accounts: Iterable<Account>, keys: Iterable<ServiceKey>): TreeNode {
  const byAccount = new Map<string, TreeNode>();
  const add = (name: string, state: string) => {
    const node: TreeNode = { id: `a:${name}`, level: 2, name, state, counts: new Map(), total: 0, children: [] };
    byAccount.set(name, node);
    return node;
  };
  for (const a of accounts) add(a.metadata.name, accountPhase(a));
  let total = 0;
  for (const k of keys) {
    const parent = byAccount.get(k.spec.accountRef.name) ?? add(k.spec.accountRef.name, "Unavailable");
    const state = keyState(k);
    parent.counts!.set(state, (parent.counts!.get(state) ?? 0) + 1);
    parent.total++;
    total++;
    parent.children.push({ id: `k:${idOf(k)}`, level: 3, name: idOf(k), state, total: 0, children: [] });
  }
  const children = [...byAccount.values()].sort(byName);
  for (const a of children) a.children.sort(byName);
  return { id: "tenant", level: 1, name: tenant.name, state: tenant.state, total, children };
}

/**
 * Places what is open, one row for each leaf, in pre-order, which is the order of the keyboard. A forest needs no general
 * graph layout: this is one pass, and 5,000 keys are 5,000 rows. A parent may be drawn beside any of its children.
 */
export function place(root: TreeNode, open: ReadonlySet<string>): Placed[] {
  const out: Placed[] = [];
  let row = 0;
  const visit = (node: TreeNode, x: number, parent: Placed | undefined, position: number, siblings: number): Placed => {
    const expanded = node.children.length > 0 && (node.level === 1 || open.has(node.id));
    const p: Placed = { node, parent, x, y: row, first: row, last: row, open: expanded, position, siblings };
    out.push(p);
    if (expanded) node.children.forEach((c, i) => (p.last = visit(c, x + 1, p, i + 1, node.children.length).first));
    else row++;
    return p;
  };
  visit(root, 0, undefined, 1, 1);
  return out;
}
