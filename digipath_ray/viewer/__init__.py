"""Web viewer of a run, running or finished, or of slides without a run.

collection/  the slides of the opened runs, reloaded when their files change
tiles/       tiles of slides and of value layers, and the files kept open for them
queue/       runs started from the page, one after another
server/      the routes: one slide, the cohort, downloads, runs; access and limits
app          puts them together; serve is the process
web/         the page, in TypeScript; built into page/, which git ignores
"""
