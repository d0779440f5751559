import { css, html, nothing, svg, type PropertyValues, type SVGTemplateResult, type TemplateResult } from "lit";
import { customElement, query, state } from "lit/decorators.js";
import { number, t, tn, tv } from "../i18n/index.js";
import { forest, place, type Placed, type TreeNode } from "../model/forest.js";
import { idOf } from "../model/kinds.js";
import { badge, empty, skeleton, toneOf } from "../ui/bits.js";
import { styles } from "../ui/styles.js";
import { View } from "../ui/view.js";

/** Pixels at a zoom of one. */
const ROW = 52;
const COLUMN = 272;
const WIDTH = 224;
const HEIGHT = 40;
const PAD = 16;
const ZOOMS = [0.5, 0.65, 0.8, 1, 1.25, 1.5];
/** Up to so many keys everything is open at the start. */
const OPEN_AT_ONCE = 40;
const LISTED = 50;
const LEGEND = [["Ready", "Active"], ["Rekeying"], ["Unavailable", "Suspended"], ["Deleting", "PendingDeletion"], ["Pending", "Provisioning", "Disabled"]];

/** A shape for each tone, so that the state does not hang on the colour. Drawn in a box of 16. */
const SHAPE: Record<string, string> = {
  positive: "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0Zm-1 11.4L3.6 8l1.2-1.2L7 9l4.2-4.2L12.4 6 7 11.4Z",
  negative: "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0Zm3.5 10.3-1.2 1.2L8 9.2l-2.3 2.3-1.2-1.2L6.8 8 4.5 5.7l1.2-1.2L8 6.8l2.3-2.3 1.2 1.2L9.2 8l2.3 2.3Z",
  critical: "M8 0 16 15H0L8 0Zm-.8 5.5v4.6h1.6V5.5H7.2Zm0 5.8v1.6h1.6v-1.6H7.2Z",
  info: "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0Zm0 2v6l4.3 4.2A6 6 0 1 1 8 2Z",
  neutral: "M8 0a8 8 0 1 0 0 16A8 8 0 0 0 8 0Zm0 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2ZM5 7v2h6V7H5Z",
};

@customElement("kc-topology")
export class TopologyScreen extends View {
  @state() private open = new Set<string>();
  @state() private active = "tenant";
  @state() private zoom = 1;
  @state() private port = { top: 0, left: 0, width: 900, height: 560 };
  @query(".canvas") private canvas?: HTMLElement;
  private placed: Placed[] = [];
  private memo: unknown[] = [];
  private root?: TreeNode;
  private started = false;
  private typed = { text: "", at: 0 };
  private drag?: { x: number; y: number; left: number; top: number; moved: boolean };
  private frame = 0;
  private readonly sizes = new ResizeObserver(() => this.measure());

  static override styles = [
    styles,
    css`
      .layout {
        display: grid;
        grid-template-columns: minmax(0, 1fr) 19rem;
        gap: 1rem;
        align-items: start;
      }
      @media (max-width: 66rem) {
        .layout {
          grid-template-columns: minmax(0, 1fr);
        }
      }
      .canvas {
        max-height: calc(100vh - 14rem);
        min-height: 24rem;
        overflow: auto;
        cursor: grab;
        position: relative;
        touch-action: pan-x pan-y;
        direction: ltr;
      }
      .canvas.dragging {
        cursor: grabbing;
        user-select: none;
      }
      svg {
        display: block;
      }
      .edge {
        fill: none;
        stroke: var(--sapContent_ForegroundBorderColor, var(--sapList_BorderColor));
        stroke-width: 1.5;
      }
      .edge.on {
        stroke: var(--sapSelectedColor);
      }
      [role="treeitem"] {
        cursor: pointer;
        outline: none;
      }
      [role="treeitem"] rect.box {
        fill: var(--sapTile_Background);
        stroke: var(--sapContent_ForegroundBorderColor, var(--sapList_BorderColor));
      }
      [role="treeitem"]:hover rect.box {
        fill: var(--sapList_Hover_Background);
      }
      [role="treeitem"][aria-selected="true"] rect.box {
        stroke: var(--sapSelectedColor);
        stroke-width: 2;
        fill: var(--sapList_SelectionBackgroundColor);
      }
      [role="treeitem"]:focus-visible rect.focus {
        stroke: var(--sapContent_FocusColor);
        stroke-width: 2;
      }
      rect.focus {
        fill: none;
        stroke: none;
      }
      text {
        fill: var(--sapTextColor);
        font-size: 13px;
        unicode-bidi: plaintext;
      }
      text.sub {
        fill: var(--sapContent_LabelColor);
        font-size: 11px;
      }
      text.count {
        font-size: 11px;
        text-anchor: middle;
        font-variant-numeric: tabular-nums;
      }
      svg .positive {
        color: var(--sapPositiveElementColor, var(--sapPositiveColor));
      }
      svg .negative {
        color: var(--sapNegativeElementColor, var(--sapNegativeColor));
      }
      svg .critical {
        color: var(--sapCriticalElementColor, var(--sapCriticalColor));
      }
      svg .info {
        color: var(--sapInformativeElementColor, var(--sapInformativeColor));
      }
      svg .neutral {
        color: var(--sapNeutralElementColor, var(--sapNeutralColor));
      }
      path.glyph {
        fill: currentColor;
      }
      .twist {
        fill: none;
        stroke: var(--sapContent_IconColor, var(--sapTextColor));
        stroke-width: 2;
        stroke-linecap: round;
        stroke-linejoin: round;
      }
      circle.ring {
        fill: none;
        stroke: currentColor;
        stroke-width: 4;
      }
      .side ul.legend {
        max-height: none;
        min-height: 0;
      }
      .side li {
        display: flex;
        align-items: center;
        gap: 0.5rem;
        padding-block: 0.375rem;
        border-block-end: 1px solid var(--sapList_BorderColor);
      }
      .side li:last-child {
        border-block-end: none;
      }
      .side ul {
        max-height: calc(100vh - 24rem);
        min-height: 8rem;
        overflow: auto;
      }
    `,
  ];

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.sizes.disconnect();
  }

  private measure(): void {
    const c = this.canvas;
    if (!c) return;
    const { scrollTop, scrollLeft, clientWidth, clientHeight } = c;
    this.port = { top: scrollTop, left: scrollLeft, width: clientWidth, height: clientHeight };
  }

  protected override willUpdate(changed: PropertyValues): void {
    const { tenants, accounts, keys } = this.ctx.fleet;
    const key = [tenants.revision, accounts.revision, keys.revision, this.ctx.fleet];
    if (key.some((k, i) => k !== this.memo[i])) {
      this.memo = key;
      const tenant = tenants.items.values().next().value;
      this.root = forest(
        { name: tenant?.status?.path ?? (this.ctx.session.workspace || t("topology.tenant")), state: tenant?.status?.phase ?? "Provisioning" },
        accounts.items.values(),
        keys.items.values(),
      );
      this.placed = [];
    }
    if (!this.started && this.root && keys.phase === "ready" && accounts.phase === "ready") {
      this.started = true;
      if (this.root.total <= OPEN_AT_ONCE) this.open = new Set(this.root.children.map((a) => a.id));
    }
    const selected = this.params.account ? `a:${this.params.account}` : "";
    if (changed.has("params") && selected && !this.open.has(selected)) this.open = new Set([...this.open, selected]);
    if (this.root && (this.placed.length === 0 || changed.has("open" as never))) this.placed = place(this.root, this.open);
    if (!this.placed.some((p) => p.node.id === this.active)) this.active = "tenant";
  }

  protected override updated(): void {
    if (this.canvas) this.sizes.observe(this.canvas);
  }

  /** A parent stands in the middle of those of its children that are in sight, and stays in sight with them. */
  private top(p: Placed): number {
    const row = ROW * this.zoom;
    if (!p.open) return p.y * row;
    const first = Math.max(p.first * row, this.port.top);
    const last = Math.min(p.last * row, this.port.top + this.port.height - row);
    return Math.min(Math.max((first + last) / 2, p.first * row), p.last * row);
  }

  private visible(): Placed[] {
    const row = ROW * this.zoom;
    const from = this.port.top - 4 * row;
    const to = this.port.top + this.port.height + 4 * row;
    return this.placed.filter((p) => {
      if (p.node.id === this.active) return true;
      const y = this.top(p);
      return y >= from && y <= to;
    });
  }

  private focusOn(id: string): void {
    this.active = id;
    const p = this.placed.find((x) => x.node.id === id);
    const c = this.canvas;
    if (!p || !c) return;
    const row = ROW * this.zoom;
    const y = this.top(p) + PAD;
    if (y < c.scrollTop + row) c.scrollTop = Math.max(0, y - row);
    else if (y > c.scrollTop + c.clientHeight - 2 * row) c.scrollTop = y - c.clientHeight + 2 * row;
    const x = p.x * COLUMN * this.zoom;
    if (x < c.scrollLeft) c.scrollLeft = Math.max(0, x - PAD);
    else if (x + WIDTH * this.zoom > c.scrollLeft + c.clientWidth) c.scrollLeft = x + WIDTH * this.zoom + 2 * PAD - c.clientWidth;
    void this.updateComplete.then(() => this.renderRoot.querySelector<SVGElement>(`[data-id="${CSS.escape(id)}"]`)?.focus({ preventScroll: true }));
  }

  private toggle(id: string, on: boolean): void {
    const next = new Set(this.open);
    if (on) next.add(id);
    else next.delete(id);
    this.open = next;
  }

  /** An account filters; a key opens. */
  private choose(p: Placed): void {
    this.active = p.node.id;
    if (p.node.level === 3) {
      const [namespace = "", name = ""] = p.node.name.split("/");
      this.go(["keys", namespace, name]);
    } else if (p.node.level === 2) {
      const again = this.params.account === p.node.name;
      this.setParams({ account: again ? undefined : p.node.name });
      this.toggle(p.node.id, !again);
    } else this.setParams({ account: undefined });
  }

  private key(e: KeyboardEvent): void {
    const at = this.placed.findIndex((p) => p.node.id === this.active);
    const p = this.placed[at];
    if (!p || e.ctrlKey || e.metaKey || e.altKey) return;
    const to = (q: Placed | undefined) => q && this.focusOn(q.node.id);
    const expandable = p.node.level === 2 && p.node.children.length > 0;
    switch (e.key) {
      case "ArrowDown":
        to(this.placed[at + 1]);
        break;
      case "ArrowUp":
        to(this.placed[at - 1]);
        break;
      case "ArrowRight":
        if (expandable && !p.open) this.toggle(p.node.id, true);
        else if (p.open) to(this.placed[at + 1]);
        break;
      case "ArrowLeft":
        if (expandable && p.open) this.toggle(p.node.id, false);
        else to(p.parent);
        break;
      case "Home":
        to(this.placed[0]);
        break;
      case "End":
        to(this.placed.at(-1));
        break;
      case "Enter":
      case " ":
        this.choose(p);
        break;
      case "Escape":
        this.setParams({ account: undefined });
        break;
      default: {
        if (e.key.length !== 1) return;
        const now = e.timeStamp;
        this.typed = { text: now - this.typed.at < 800 ? this.typed.text + e.key.toLowerCase() : e.key.toLowerCase(), at: now };
        const order = [...this.placed.slice(at + (this.typed.text.length > 1 ? 0 : 1)), ...this.placed.slice(0, at + 1)];
        to(order.find((q) => (q.node.level === 3 ? q.node.name.split("/")[1]! : q.node.name).toLowerCase().startsWith(this.typed.text)));
      }
    }
    e.preventDefault();
  }

  private zoomBy(step: number): void {
    const at = ZOOMS.indexOf(this.zoom) + step;
    const next = ZOOMS[Math.min(Math.max(at, 0), ZOOMS.length - 1)]!;
    const c = this.canvas;
    const middle = c ? (c.scrollTop + c.clientHeight / 2) / this.zoom : 0;
    this.zoom = next;
    void this.updateComplete.then(() => {
      if (c) c.scrollTop = middle * next - c.clientHeight / 2;
      this.measure();
    });
  }

  private ring(n: TreeNode): SVGTemplateResult {
    const around = 2 * Math.PI * 13;
    let at = 0;
    return svg`<g transform="translate(${WIDTH - 26} ${HEIGHT / 2})">
      ${n.total === 0 ? svg`<circle class="ring neutral" r="13" opacity="0.4"></circle>` : nothing}
      ${[...(n.counts ?? [])].map(([s, count]) => {
        const share = (count / n.total) * around;
        const arc = svg`<circle class="ring ${toneOf(s)}" r="13" stroke-dasharray="${share} ${around - share}" stroke-dashoffset=${-at} transform="rotate(-90)"></circle>`;
        at += share;
        return arc;
      })}
      <text class="count" y="4">${n.total > 999 ? `${Math.floor(n.total / 1000)}k` : n.total}</text>
    </g>`;
  }

  private item(p: Placed): SVGTemplateResult {
    const n = p.node;
    const k = this.zoom;
    const state = tv("state", n.state);
    const short = n.level === 3 ? n.name.split("/")[1]! : n.name;
    const room = n.level === 2 ? 20 : 26;
    const label = [...short].length > room ? `${[...short].slice(0, room - 1).join("")}…` : short;
    const sub = n.level === 3 ? `${state} · ${n.name.split("/")[0]!.slice(0, 16)}` : state;
    const selected = n.level === 2 && this.params.account === n.name;
    // What is spoken begins with what is seen, so that a person can say it to the machine.
    const seen = n.level === 2 ? `${label} ${sub} ${tn("account.keys", n.total)}` : `${label} ${sub}`;
    const spoken = label === short ? seen : `${seen}, ${short}`;
    return svg`<g
      role="treeitem"
      data-id=${n.id}
      aria-label=${spoken}
      aria-level=${n.level}
      aria-posinset=${p.position}
      aria-setsize=${p.siblings}
      aria-selected=${selected ? "true" : "false"}
      aria-expanded=${n.level < 3 && n.children.length ? (p.open ? "true" : "false") : nothing}
      tabindex=${n.id === this.active ? "0" : "-1"}
      transform="translate(${p.x * COLUMN * k + PAD} ${this.top(p) + PAD}) scale(${k})"
      @click=${() => !this.drag?.moved && this.choose(p)}
      @focus=${() => (this.active = n.id)}
    >
      <g aria-hidden="true">
      <title>${n.name}</title>
      <rect class="focus" x="-4" y="-4" width=${WIDTH + 8} height=${HEIGHT + 8} rx="12"></rect>
      <rect class="box" width=${WIDTH} height=${HEIGHT} rx="8"></rect>
      <path class="glyph ${toneOf(n.state)}" transform="translate(12 12)" d=${SHAPE[toneOf(n.state)]!}></path>
      <text x="38" y="17">${label}</text>
      <text class="sub" x="38" y="32">${sub}</text>
      ${n.level === 2 ? this.ring(n) : nothing}
      ${n.level === 2 && n.children.length ? svg`<path class="twist" transform="translate(${WIDTH + 8} ${HEIGHT / 2})" d=${p.open ? "M-4 -2 0 2 4 -2" : "M-2 -4 2 0 -2 4"}></path>` : nothing}
      </g>
    </g>`;
  }

  private edge(p: Placed): SVGTemplateResult | typeof nothing {
    if (!p.parent) return nothing;
    const k = this.zoom;
    const x1 = p.parent.x * COLUMN * k + PAD + (WIDTH + (p.parent.node.level === 2 ? 16 : 0)) * k;
    const y1 = this.top(p.parent) + PAD + (HEIGHT * k) / 2;
    const x2 = p.x * COLUMN * k + PAD;
    const y2 = this.top(p) + PAD + (HEIGHT * k) / 2;
    const mid = (x1 + x2) / 2;
    const on = this.params.account && (p.parent.node.name === this.params.account || p.node.name === this.params.account);
    return svg`<path class="edge ${on ? "on" : ""}" d="M${x1} ${y1}C${mid} ${y1} ${mid} ${y2} ${x2} ${y2}"></path>`;
  }

  private graph(): TemplateResult {
    const shown = this.visible();
    const rows = this.placed.reduce((m, p) => Math.max(m, p.y), 0) + 1;
    const width = (2 * COLUMN + WIDTH) * this.zoom + 3 * PAD;
    const height = rows * ROW * this.zoom + PAD;
    return html`<div
      class="canvas ${this.drag?.moved ? "dragging" : ""}"
      tabindex="-1"
      @scroll=${() => {
        cancelAnimationFrame(this.frame);
        this.frame = requestAnimationFrame(() => this.measure());
      }}
      @wheel=${(e: WheelEvent) => {
        if (!e.ctrlKey) return;
        e.preventDefault();
        this.zoomBy(e.deltaY < 0 ? 1 : -1);
      }}
      @pointerdown=${(e: PointerEvent) => {
        const c = this.canvas!;
        if (e.button === 0 && e.pointerType === "mouse") this.drag = { x: e.clientX, y: e.clientY, left: c.scrollLeft, top: c.scrollTop, moved: false };
      }}
      @pointermove=${(e: PointerEvent) => {
        const d = this.drag;
        const c = this.canvas!;
        if (!d || !(e.buttons & 1)) return;
        if (Math.hypot(e.clientX - d.x, e.clientY - d.y) > 4) d.moved = true;
        if (d.moved) c.scrollTo(d.left - (e.clientX - d.x), d.top - (e.clientY - d.y));
      }}
      @pointerup=${() => setTimeout(() => (this.drag = undefined))}
    >
      <svg width=${width} height=${height} @keydown=${(e: KeyboardEvent) => this.key(e)}>
        <g aria-hidden="true">${shown.map((p) => this.edge(p))}</g>
        <g role="tree" aria-label=${t("topology.label")} aria-multiselectable="false">${shown.map((p) => this.item(p))}</g>
      </svg>
    </div>`;
  }

  private side(): TemplateResult {
    const name = this.params.account;
    if (!name) {
      return html`<aside class="card side">
        <div class="head"><h3>${t("topology.legend")}</h3></div>
        <p class="muted" style="margin-block-end: 0.75rem">${t("topology.help")}</p>
        <ul class="legend">
          ${LEGEND.map(
            (states) =>
              html`<li>
                <svg width="16" height="16" aria-hidden="true"><path class="glyph ${toneOf(states[0]!)}" d=${SHAPE[toneOf(states[0]!)]!}></path></svg>
                <span>${states.map((s) => tv("state", s)).join(", ")}</span>
              </li>`,
          )}
        </ul>
        <p class="muted small" style="margin-block-start: 0.75rem">${t("topology.ring")}</p>
      </aside>`;
    }
    const keys = [...this.ctx.fleet.keys.items.values()].filter((k) => k.spec.accountRef.name === name).sort((a, b) => idOf(a).localeCompare(idOf(b)));
    return html`<aside class="card side" aria-labelledby="chosen">
      <div class="head">
        <h3 id="chosen" class="grow"><bdi>${name}</bdi></h3>
        <ui5-button design="Transparent" icon="decline" tooltip=${t("filter.clear")} @click=${() => this.setParams({ account: undefined })}></ui5-button>
      </div>
      <p role="status" class="muted" style="margin-block-end: 0.5rem">${tn("topology.shown", keys.length, { account: name })}</p>
      <ul tabindex=${keys.length ? "0" : nothing} aria-label=${t("tab.keys")}>
        ${keys.slice(0, LISTED).map((k) => html`<li><span class="grow">${this.keyLink(k)}<br /><bdi class="muted small">${k.metadata.namespace}</bdi></span>${badge(k.status?.state ?? "Provisioning")}</li>`)}
      </ul>
      <p class="row" style="margin-block-start: 0.75rem">
        ${this.link(["keys"], t("topology.openList"), { account: name })}<span class="muted">·</span>${this.link(["accounts", name], t("topology.openAccount"))}
      </p>
    </aside>`;
  }

  private table(): TemplateResult {
    return html`<div class="card flush scroll">
      <table>
        <caption class="sr">
          ${t("topology.label")}
        </caption>
        <thead>
          <tr>
            <th scope="col">${t("col.account")}</th>
            <th scope="col">${t("col.state")}</th>
            <th scope="col" class="num">${t("col.dependents")}</th>
            <th scope="col">${t("account.byState")}</th>
          </tr>
        </thead>
        <tbody>
          ${this.root!.children.map(
            (a) =>
              html`<tr>
                <td class="name">${this.accountLink(a.name)}</td>
                <td>${badge(a.state)}</td>
                <td class="num">${this.link(["keys"], number(a.total), { account: a.name }, tn("account.allKeys", a.total))}</td>
                <td><div class="row">${[...(a.counts ?? [])].map(([s, n]) => html`<span class="row" style="gap: 0.25rem">${badge(s)} ${number(n)}</span>`)}</div></td>
              </tr>`,
          )}
        </tbody>
      </table>
    </div>`;
  }

  protected override render() {
    const { accounts, keys } = this.ctx.fleet;
    const failed = [accounts, keys].find((c) => c.phase === "failed");
    if (failed) return this.failure(failed.error);
    if (accounts.phase === "loading" || !this.root) return skeleton(6, "4rem");
    if (this.root.children.length === 0) return html`<section class="card">${empty({ icon: "tree", title: t("topology.none"), text: t("topology.noneText") })}</section>`;
    const asTable = this.params.view === "table";
    return html`<section class="stack" aria-labelledby="heading">
      <div class="toolbar" style="align-items: center">
        <h2 id="heading" class="grow">${t("tab.topology")}</h2>
        ${asTable
          ? nothing
          : html`<ui5-button design="Transparent" @click=${() => (this.open = new Set(this.root!.children.map((a) => a.id)))}>${t("topology.expand")}</ui5-button>
              <ui5-button design="Transparent" @click=${() => (this.open = new Set())}>${t("topology.collapse")}</ui5-button>
              <ui5-button icon="zoom-out" tooltip=${t("topology.zoomOut")} ?disabled=${this.zoom === ZOOMS[0]} @click=${() => this.zoomBy(-1)}></ui5-button>
              <span class="num small" style="min-width: 3rem; text-align: center">${new Intl.NumberFormat(undefined, { style: "percent" }).format(this.zoom)}</span>
              <ui5-button icon="zoom-in" tooltip=${t("topology.zoomIn")} ?disabled=${this.zoom === ZOOMS.at(-1)} @click=${() => this.zoomBy(1)}></ui5-button>`}
        <ui5-button id="as-table" icon=${asTable ? "tree" : "table-view"} @click=${() => this.setParams({ view: asTable ? undefined : "table" })}>${t(asTable ? "topology.asGraph" : "topology.asTable")}</ui5-button>
      </div>
      ${asTable
        ? this.table()
        : html`<div class="layout">
            <div class="card flush">${this.graph()}</div>
            ${this.side()}
          </div>`}
    </section>`;
  }
}
