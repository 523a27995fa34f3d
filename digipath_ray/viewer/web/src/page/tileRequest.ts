/** Requests of tiles from a server that may be busy, and then says for how long. */

const BUSY = new Set([429, 503]);

/** The answer, whatever it is, once the server has time; waits as long as it asks for. */
export async function requestTile(path: string, signal: AbortSignal): Promise<Response> {
  for (;;) {
    const answer = await fetch(path, { signal });
    if (!BUSY.has(answer.status)) return answer;
    await pause(1000 * (Number(answer.headers.get("Retry-After")) || 1));
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => window.setTimeout(resolve, ms));
}
