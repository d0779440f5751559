import type { KindName, Kinds } from "../model/kinds.js";
import type { Change, DataPort } from "./port.js";

/** So many changes of a kind are remembered for a page that has just listed and is about to listen. */
const REMEMBERED = 500;

type Any = Change<Kinds[KindName]>;

const versionOf = (c: Any): number => Number(c.type === "BOOKMARK" ? c.resourceVersion : c.object.metadata.resourceVersion);

/**
 * One stream per kind for all pages of a browser that show the same workspace to the same person. A browser opens six
 * connections to a server and a gateway fifty for everybody: streams of two tabs would leave none for anything else.
 *
 * Who holds the lock of a kind holds its stream and tells the others. When it goes, another gets the lock, and goes on from
 * the version it knows, so nothing is lost in between.
 */
export function shared(port: DataPort, scope: string): { port: DataPort; close(): void } {
  // Without a secure context there are no locks: every page for itself.
  if (!globalThis.navigator?.locks || !globalThis.BroadcastChannel) return { port, close: () => undefined };
  const ears = new Ears(`openkcm ${scope}`);
  const watch: DataPort["watch"] = async (kind, o, on) => {
    const id = `${kind} ${o.namespace ?? ""}`;
    const lock = `openkcm ${scope} ${id}`;
    const led = await navigator.locks.request(lock, { ifAvailable: true }, async (mine) => {
      if (!mine) return false;
      await port.watch(kind, o, (change) => {
        ears.tell(id, change);
        on(change);
      });
      return true;
    });
    if (led || o.signal.aborted) return;
    const stop = ears.listen(id, Number(o.resourceVersion), on as (c: Any) => void);
    try {
      await navigator.locks.request(lock, { signal: o.signal }, () => undefined);
    } catch (e) {
      if (!o.signal.aborted) throw e;
    } finally {
      stop();
    }
  };
  return {
    port: new Proxy(port, {
      get(target, name) {
        if (name === "watch") return watch;
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    }),
    close: () => ears.close(),
  };
}

/** What the other pages tell. Open from the beginning: a change between a list and the listening is not missed. */
class Ears {
  private readonly channel: BroadcastChannel;
  private readonly heard = new Map<string, Any[]>();
  private readonly listeners = new Map<string, (c: Any) => void>();

  constructor(name: string) {
    this.channel = new BroadcastChannel(name);
    this.channel.onmessage = ({ data }: MessageEvent<{ id: string; change: Any }>) => {
      const all = this.heard.get(data.id) ?? [];
      all.push(data.change);
      this.heard.set(data.id, all.slice(-REMEMBERED));
      this.listeners.get(data.id)?.(data.change);
    };
  }

  tell(id: string, change: Any): void {
    this.channel.postMessage({ id, change });
  }

  listen(id: string, since: number, on: (c: Any) => void): () => void {
    // What is older than the list is in the list.
    const newer = (c: Any) => {
      if (versionOf(c) > since) on(c);
    };
    for (const c of this.heard.get(id) ?? []) newer(c);
    this.heard.delete(id);
    this.listeners.set(id, newer);
    return () => this.listeners.delete(id);
  }

  close(): void {
    this.channel.close();
  }
}
