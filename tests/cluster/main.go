// Command cluster is the real Kubernetes control plane as one binary, so that tests and the demo talk to the
// real API server without docker and without downloads outside the Go module proxy.
//
// It is called as one of its programs, by name or by first argument (`ln -s cluster kubectl; ./kubectl get ns`,
// `cluster kubectl get ns`), or as `cluster up`, which runs a whole control plane in the foreground.
//
// Where the programs come from is decided when it is built: linked in (linked.go), or, with the build tag
// `assets`, executed from the folder that KUBEBUILDER_ASSETS names (assets.go).
package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if run, ok := programs[filepath.Base(os.Args[0])]; ok {
		run()
		return
	}
	if len(os.Args) < 2 {
		usage()
	}
	name := os.Args[1]
	if name == "up" {
		os.Exit(up(os.Args[2:]))
	}
	run, ok := programs[name]
	if !ok {
		usage()
	}
	// The programs read os.Args themselves and must find what they would find when run under their own name.
	os.Args = append([]string{name}, os.Args[2:]...)
	run()
}

func usage() {
	names := slices.Sorted(maps.Keys(programs))
	fmt.Fprintf(os.Stderr, "usage: cluster up [--dir DIR] [--while parent|stdin|forever] [--keep]\n       cluster %s ARGUMENTS...\n",
		strings.Join(names, "|"))
	os.Exit(2)
}
