"""The demo: a bookstore on real Envoys, a live table, and three experiments that edit one file.

`apps` are the applications that the example's Deployments start, `traffic` adds up what they report, `table` shows
it, `experiments` knows the edits and what must follow from them, `stage` puts it all together.
"""
