# Every target sets up what it needs: a virtual environment in .venv, and scenewright in it.
PYTHON ?= python3
VENV   ?= .venv
LEGACY ?= .venv-legacy
RUN     = $(VENV)/bin/python
comma  := ,
LONG    = $(addprefix benchmarks/,annotate_vs_reference.py extrapolation.py regional_flops.py structured_captions.py tiny_quality.py training_loader.py)

help:            ## show this
	@grep -hE '^[a-z]+:.*##' Makefile | sed 's/:[^#]*## */:/' | awk -F: '{printf "  make %-9s %s\n", $$1, $$2}'

demo: install    ## annotate photographs and drawn scenes, compose some, train a tiny layout model for a minute, draw with a trained one, judge it
	@echo "== collecting photographs that scikit-image and scikit-learn bring along"
	$(RUN) entrypoints/demo_photos.py demo/photos demo/concepts demo/backgrounds
	@echo "== annotating them, and drawn scenes, without any weights"
	rm -rf demo/shards
	$(RUN) entrypoints/annotate.py experiment=demo output_dir=demo/shards
	@echo "== writing the report"
	$(RUN) entrypoints/report.py shards=demo/shards output=demo/report.html title='scenewright demo'
	@echo "== composing scenes of things cut out of photographs, without any weights"
	rm -rf demo/composed
	$(RUN) entrypoints/annotate.py experiment=embedded dataset=gen4gen dataset.directory=demo/concepts dataset.backgrounds=demo/backgrounds dataset.length=12 dataset.height=512 dataset.width=512 output_dir=demo/composed '~annotator/tagger' '~annotator/detector' '~annotator/segmenter'
	$(RUN) entrypoints/report.py compositions=demo/composed/compositions output=demo/compositions.html title='composed scenes'
	@echo "== training the tiny layout model on drawn scenes, for about a minute (the weights that come along had an hour and more)"
	$(RUN) entrypoints/train.py experiment=embedded steps=60 warmup=10 validation.count=16 checkpoint_every=60 output_dir=demo/training
	@echo "== drawing with the weights that come along: held-out scenes, and layouts written by hand"
	$(RUN) entrypoints/generate.py experiment=embedded limit=12 output_dir=demo/scenes
	$(RUN) entrypoints/generate.py layout_model=tiny layouts=docs/layouts.json images_per_layout=2 output_dir=demo/layouts
	@echo "== judging the trained one on held-out scenes"
	$(RUN) entrypoints/eval.py experiment=embedded limit=32 output_dir=demo/evaluation
	@echo "== open $(CURDIR)/demo/report.html, $(CURDIR)/demo/compositions.html and $(CURDIR)/demo/evaluation/report.html"
	@echo "== look at $(CURDIR)/demo/scenes/contact_sheet.png, demo/layouts/contact_sheet.png and demo/training/validation"

test: install    ## run the tests (offline, two processes); ALL=1 for the slow ones too, with every shape and type checked
	$(RUN) -m pytest -q -n 2 --dist worksteal $(if $(ALL),--jaxtyping-packages=scenewright$(comma)beartype.beartype,-m 'not slow')

check: install   ## lint, format, types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	# for pyright and editors, which do not follow an editable install: the package as it is installed, in links
	mkdir -p .types/scenewright && ln -sfn $(addprefix ../../,$(wildcard packages/*) conf entrypoints) .types/scenewright/
	$(VENV)/bin/pyright --pythonpath $(RUN)

bench: install   ## measure, each number against a baseline in the same run; SMOKE=1 for a quick look
ifdef SMOKE
	# two at a time: nothing is to be read from these numbers; without those that take a minute however small
	printf '%s\n' $(filter-out $(LONG),$(wildcard benchmarks/*.py)) | xargs -P 2 -I SCRIPT sh -c 'said=$$($(RUN) SCRIPT --smoke 2>&1); code=$$?; printf "== SCRIPT\n%s\n" "$$said"; exit $$code'
else
	for script in benchmarks/*.py; do echo "== $$script"; $(RUN) $$script || exit 1; done
endif

install: $(VENV)/installed   ## only set up .venv

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "== setting up $(VENV): torch and its friends, about 5 GB, two to five minutes"
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --no-compile --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

legacy: $(LEGACY)/installed  ## set up .venv-legacy, for recognize_anything, groundingdino_py and lavis_blip2

$(LEGACY)/installed: legacy/requirements.txt legacy/constraints.txt
	@echo "== setting up $(LEGACY): salesforce-lavis, groundingdino-py and segment-anything with transformers 4.26,"
	@echo "== and a torch of its own; about 7 GB, two to five minutes. Delete the folder to be rid of it"
	test -x $(LEGACY)/bin/python || $(PYTHON) -m venv $(LEGACY)
	$(LEGACY)/bin/python -m pip install --quiet --disable-pip-version-check -r legacy/requirements.txt -c legacy/constraints.txt
	$(LEGACY)/bin/python -m pip check
	@touch $@
	@du -sh $(LEGACY)

clean:           ## remove what the targets made, the environment too
	rm -rf $(VENV) .types demo build *.egg-info .pytest_cache .ruff_cache

.PHONY: help demo test check bench install legacy clean
