// A page that sends what is typed, and one with a terminal.
import { Lap, LapError, textOf } from '@litellm-agent-platform/lap'

const lap = new Lap({ url: location.origin, key: prompt('Key') ?? '' })

export async function say(session: string, text: string, into: HTMLElement): Promise<void> {
  try {
    for await (const piece of textOf(lap.streamMessage(session, text))) into.append(piece)
  } catch (error) {
    into.append(error instanceof LapError ? `${error.code} (${error.requestId})` : String(error))
  }
}

export async function show(session: string, into: HTMLElement): Promise<void> {
  const terminal = await lap.openTerminal(session)
  into.addEventListener('keydown', (e) => terminal.write(e.key))
  const decoder = new TextDecoder()
  for await (const bytes of terminal) into.append(decoder.decode(bytes, { stream: true }))
}
