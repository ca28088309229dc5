"""What the tests of downloads share: a file's content, and pages that answer as they are told."""

import threading

CONTENT = bytes(range(256)) * 4
MB = 1_000_000


def answer(status, body=b"", headers=()):
    def page(request):
        request.send_response(status)
        for name, value in headers:
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return page


def wait_for_the_end_of(thread_name):
    for thread in threading.enumerate():
        if thread.name == thread_name:
            thread.join(timeout=2)
            assert not thread.is_alive()
