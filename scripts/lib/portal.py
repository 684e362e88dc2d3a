#!/usr/bin/env python3
"""A captive portal: whoever asks for anything, on any port that counts here, is sent to its page. Prints a line for each."""

import asyncio

PORTS = (80, 443, 7000)
ANSWER = b"HTTP/1.1 302 Found\r\nLocation: http://portal.test/sign-in\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def answer(reader, writer):
    print("asked", flush=True)
    try:
        # Some wait for a request, and send everybody away who has said anything.
        await asyncio.wait_for(reader.read(4096), 5)
        writer.write(ANSWER)
        await writer.drain()
    except (OSError, asyncio.TimeoutError):
        pass
    writer.close()


async def main():
    for port in PORTS:
        await asyncio.start_server(answer, "0.0.0.0", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
