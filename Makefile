# Two commands are all set-up: `make demo` runs the whole loop, `make test` checks everything.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   ?= demo
APT    := python3-venv libegl1 libgl1 libglib2.0-0
# Debian's ROS 1: master and tools, rospy, and the messages that rigs speak.
APT    += ros-core rospack-tools python3-rospy python3-message-filters python3-roslaunch \
          python3-sensor-msgs python3-nav-msgs python3-trajectory-msgs python3-geometry-msgs python3-std-srvs
DEBIAN_PYTHON := /usr/lib/python3/dist-packages
comma  := ,
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export MUJOCO_GL ?= egl
# Containers often set it. Every process would then compile every module it imports anew, torch's for 2 s and more.
unexport PYTHONDONTWRITEBYTECODE
# Lift's environment: the same commands with robosuite, whose MuJoCo and numpy are older.
ROBOSUITE := .venv-robosuite
EXTRAS_ROBOSUITE := robosuite,train,view,remote,zarr,test

.PHONY: help install lock system lint types test demo robosuite test-robosuite clean

help:
	@echo "make demo     record, train, deploy and replay in simulation (no robot, no GPU); result in $(DEMO)/report.html"
	@echo "make test     ruff, mypy --strict and every test"
	@echo "make install  system packages and the Python environment in $(VENV), which both of these run first"
	@echo "make lock     renew requirements.lock, the versions that make install installs, and requirements-robosuite.lock"
	@echo "make robosuite       robosuite (task lift) in an environment of its own: $(ROBOSUITE)/bin/python -m aloha_kit.record --task lift"
	@echo "make test-robosuite  the tests of Lift in it"

# Debian packages are only installed where one is missing, so no password is needed a second time.
system:
	@dpkg -s $(APT) >/dev/null 2>&1 || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q --no-install-recommends $(APT); }

$(VENV)/installed: setup.py pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip install -q -p $(BIN)/python -r requirements.lock -e '.[all,test]'
	@# on Python 3.13 setup.py leaves these two out, see there
	$(BIN)/uv pip install -q -p $(BIN)/python --no-deps $$(grep -oE '^(dm-control|gym-aloha)==[^ ]*' requirements.lock)
	@# rospy is Debian's. Last on the path (a .pth file, not PYTHONPATH), or Debian's numpy would hide the environment's.
	@test ! -d $(DEBIAN_PYTHON) || \
	  echo $(DEBIAN_PYTHON) > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/debian_ros.pth"
	touch $@

# The newest versions that setup.py allows, for every supported Python; what `make install` then installs everywhere.
lock:
	$(BIN)/uv pip compile -q setup.py --extra all --extra test --universal --python-version 3.10 --upgrade \
	  --no-header --no-annotate -o requirements.lock
	echo "evdev; python_version < '3'" | $(BIN)/uv pip compile -q setup.py $(foreach e,$(subst $(comma), ,$(EXTRAS_ROBOSUITE)),--extra $(e)) \
	  --overrides /dev/stdin --universal --python-version 3.10 --upgrade --no-header --no-annotate -o requirements-robosuite.lock

# --no-deps: without evdev (for robosuite's keyboard) and egl_probe (for robomimic's rendering), which are compiled for
# every machine. robomimic is there for its own reader of data sets, which tests what we write.
$(ROBOSUITE)/installed: setup.py pyproject.toml requirements-robosuite.lock
	$(PYTHON) -m venv $(ROBOSUITE)
	$(ROBOSUITE)/bin/python -m pip install -q uv
	$(ROBOSUITE)/bin/uv pip install -q -p $(ROBOSUITE)/bin/python --no-deps -r requirements-robosuite.lock robomimic==0.3.0 -e .
	touch $@

robosuite: system $(ROBOSUITE)/installed

test-robosuite: robosuite
	$(ROBOSUITE)/bin/python -m pytest tests/lift tests/formats/test_robomimic_export.py

install: system $(VENV)/installed

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy --strict aloha_kit benchmarks

# Files of tests side by side, a thread each. Those of ROS have the machine for themselves, since their arms move in real time.
# Their tracebacks are Python's own: pytest parses sources for its, which Python 3.11 can refuse while other threads run
# (SystemError: AST constructor recursion depth mismatch), and the whole run ends without the name of the test that failed.
test: lint types
	failed=0; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --ignore tests/ros || failed=1; \
	$(BIN)/python -m pytest tests/ros --tb=native || failed=1; \
	exit $$failed

demo: install
	PATH="$(CURDIR)/$(BIN):$$PATH" sh train/demo.sh $(DEMO)

clean:
	rm -rf $(VENV) $(ROBOSUITE) build ./*.egg-info .pytest_cache .mypy_cache .ruff_cache
