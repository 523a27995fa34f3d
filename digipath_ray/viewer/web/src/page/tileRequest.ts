/** Tile requests, retried after the server's Retry-After. */

const BUSY = new Set([429, 503]);

/** Fetch a response, retrying while the server is busy. */
export async function requestTile(path: string, signal: AbortSignal): Promise<Response> {
  for (;;) {
    const response = await fetch(path, { signal });
    if (!BUSY.has(response.status)) return response;
    await pause(1000 * (Number(response.headers.get("Retry-After")) || 1));
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => window.setTimeout(resolve, ms));
}
