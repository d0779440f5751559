import { hierarchy, tree } from "d3-hierarchy";
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
  /** Rows of the first and the last child; the node may be drawn anywhere between. */
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

/** Places what is open; closed accounts take one row. Pre-order, which is the order of the keyboard. */
export function place(root: TreeNode, open: ReadonlySet<string>): Placed[] {
  const isOpen = (n: TreeNode) => n.level === 1 || (n.level === 2 && open.has(n.id));
  const h = hierarchy(root, (n) => (isOpen(n) ? n.children : []));
  // One unit a row for every pair: no extra gap between cousins, so 5,000 keys stay 5,000 rows.
  tree<TreeNode>()
    .nodeSize([1, 1])
    .separation(() => 1)(h);
  let top = Infinity;
  h.each((n) => (top = Math.min(top, n.x!)));
  const placed = new Map<TreeNode, Placed>();
  // Looked up and not searched: 5,000 siblings would make a search quadratic.
  const position = new Map<TreeNode, number>();
  h.each((n) => n.children?.forEach((c, i) => position.set(c.data, i + 1)));
  const out: Placed[] = [];
  h.eachBefore((n) => {
    const y = n.x! - top;
    const p: Placed = {
      node: n.data,
      parent: n.parent ? placed.get(n.parent.data) : undefined,
      x: n.depth,
      y,
      first: (n.children?.[0]?.x ?? n.x!) - top,
      last: (n.children?.at(-1)?.x ?? n.x!) - top,
      open: isOpen(n.data) && n.data.children.length > 0,
      position: position.get(n.data) ?? 1,
      siblings: n.parent?.children?.length ?? 1,
    };
    placed.set(n.data, p);
    out.push(p);
  });
  return out;
}
