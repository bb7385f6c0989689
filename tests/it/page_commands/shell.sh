# What stands in for what the tests have no machine for: a kubelet, an image registry, a node, a compiler. Each function checks what it
# can of the command, notes its name in $USED, and does for real what is left. Every other program is itself.
#
# From the test: ROOT (the repository), FRANKING and TESTS (the two binaries), SETTINGS, DATA and BACKUPS (what the containers have at
# the paths below), LOG (the relay's), KUBECONFIG.

used() { echo "$1" >>"$USED"; }

fail() {
    echo "$*" >&2
    return 1
}

# What a command names in the cluster is there: its objects, by name or selector, in its namespace.
named() {
    local words=() bare=$1 kind=pods
    shift
    while (($# > 0)); do
        case $1 in
        --) break ;;
        -n | --namespace | -l | --selector) words+=("$1" "$2") && shift ;;
        -c | --container) shift ;;
        -* | exec | logs | wait | rollout | status) ;;
        */* | pod | job) words+=("$1") kind='' ;;
        # exec and logs take a pod without its kind, and without a name all that a selector finds.
        *) words+=("$bare$1") kind='' ;;
        esac
        shift
    done
    [ "$(command kubectl get $kind "${words[@]}" --output name)" ] || fail "nothing is there: ${words[*]}"
}

# kubectl exec without a node: the container is one of the pod's, and what it would run is run here.
inside() {
    local words=("$@") namespace='' container='' pod=''
    named pod/ "$@"
    while [ "$1" != -- ]; do
        case $1 in
        -n | --namespace) namespace=$2 && shift ;;
        -c | --container) container=$2 && shift ;;
        exec) ;;
        */*) pod=$1 ;;
        *) pod=pod/$1 ;;
        esac
        shift
    done
    shift
    if [ "$container" ]; then
        local found
        found=$(command kubectl get "$pod" --namespace "$namespace" --output json)
        case $found in *"\"name\": \"$container\""*) ;; *) fail "$pod has no container $container: ${words[*]}" ;; esac
    fi
    case $1 in
    /franking) used exec && franking "${@:2}" ;;
    # The program of another image.
    /opt/keycloak/bin/kcadm.sh) used exec ;;
    *) fail "what is $1 in a container?" ;;
    esac
}

franking() {
    local word words=()
    for word; do
        case $word in
        /etc/franking/settings/franking.yaml) word=$SETTINGS ;;
        /backup*) word=$BACKUPS${word#/backup} ;;
        /var/lib/franking*) word=$DATA${word#/var/lib/franking} ;;
        esac
        words+=("$word")
    done
    FRANKING_DATA=$DATA "$FRANKING" "${words[@]}"
}

kubectl() {
    local word verb=''
    for word; do
        case $word in
        annotate | apply | create | delete | exec | get | label | logs | patch | rollout | wait) verb=$word && break ;;
        esac
    done
    case $verb in
    exec) inside "$@" ;;
    # Pods do not run here. What a page greps for is in the relay's log.
    logs) used logs && named pod/ "$@" && cat "$LOG" ;;
    # A page begins with an empty cluster, and this one has what the pages before it made.
    create) command kubectl "$@" --dry-run=client --output yaml | command kubectl apply --server-side --force-conflicts --filename - ;;
    # Nothing of a node's gets ready.
    rollout) used rollout && named '' "$@" ;;
    wait)
        case " $* " in
        *" job"* | *" pod"* | *" cluster/"*) used wait && named '' "$@" ;;
        *) command kubectl "$@" ;;
        esac
        ;;
    '') fail "what does kubectl $* do?" ;;
    *) command kubectl "$@" ;;
    esac
}

# A release needs nodes to be worth anything: what would be installed is rendered and taken by the API server, which keeps nothing.
helm() {
    local verb=$1 word words=() objects
    shift
    case $verb in
    install | upgrade) ;;
    uninstall)
        used uninstall
        command kubectl delete statefulset "$@" --cascade=foreground
        return
        ;;
    *) fail "what does helm $verb do?" ;;
    esac
    for word; do
        case $word in --install | --reuse-values) ;; *) words+=("$word") ;; esac
    done
    used helm
    objects=$(command helm template "${words[@]}" |
        command kubectl apply --server-side --force-conflicts --dry-run=server --filename - | wc -l)
    ((objects > 10)) || fail "helm $verb $*: $objects objects"
}

# The image is built and read by tests/it/image.rs; there is no registry and no node to bring it to.
brought() {
    used "$1"
    case "$*" in *target/franking-image.tar*) ;; *) fail "$* brings no image" ;; esac
}
skopeo() { brought skopeo "$@"; }
kind() { brought kind "$@"; }
k3s() { brought k3s "$@"; }

# Each builds for minutes, and CI and other tests run them: here it is seen that make knows how.
make() { used make && command make --directory "$ROOT" --dry-run "$@" >/dev/null; }

# The filter finds tests.
cargo() {
    used cargo
    case "$*" in
    'test --lib '*) find "$ROOT/src" -path "*$3*" -name '*.rs' | grep . >/dev/null || fail "$* finds no test" ;;
    *'--test it '*)
        local words="$*"
        local filter=${words#*--test it }
        "$TESTS" --list "${filter%% *}" | grep ': test$' >/dev/null || fail "$* finds no test"
        ;;
    *) fail "what does cargo $* do?" ;;
    esac
}
