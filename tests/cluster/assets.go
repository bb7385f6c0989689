//go:build assets

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

var programs = map[string]func(){
	"etcd":                    func() { execute("etcd") },
	"kube-apiserver":          func() { execute("kube-apiserver") },
	"kube-controller-manager": func() { execute("kube-controller-manager") },
	"kubectl":                 func() { execute("kubectl") },
	"helm":                    func() { execute("helm") },
}

// execute becomes the program, so its process id is the one that the caller started and stops.
func execute(name string) {
	folder := os.Getenv("KUBEBUILDER_ASSETS")
	if folder == "" {
		fmt.Fprintln(os.Stderr, "this cluster binary was built with KUBEBUILDER_ASSETS set and links no Kubernetes; set it again, or unset it and run `make cluster`")
		os.Exit(1)
	}
	path := filepath.Join(folder, name)
	if err := syscall.Exec(path, os.Args, os.Environ()); err != nil {
		fmt.Fprintf(os.Stderr, "KUBEBUILDER_ASSETS is set, so %s is taken from %s, and that cannot be run: %v; put it there, or unset KUBEBUILDER_ASSETS and run `make cluster`\n", name, path, err)
		os.Exit(1)
	}
}
