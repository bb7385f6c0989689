package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// How often the parent is looked at. It only bounds how long a cluster outlives a parent that was killed.
	parentInterval = 200 * time.Millisecond
	// How often a free port may turn out to be taken by somebody else between choosing and listening.
	startAttempts = 3
)

const upUsage = `usage: cluster up [--dir DIR] [--while parent|stdin|forever] [--keep]

Runs etcd, kube-apiserver and kube-controller-manager on loopback, in the foreground. DIR (made when absent, else it
must be empty; without --dir a new temporary folder) gets kubeconfig (an admin's), pki/, logs/ and etcd/.
Prints "ready DIR/kubeconfig" when everything answers.

It ends with SIGTERM or SIGINT, and besides
  --while parent    when the process that started it is gone (the default)
  --while stdin     when its standard input is closed: cannot be missed, however the other end died. It then also
                    takes the lines "stop kube-apiserver" and "start kube-apiserver" and answers "stopped
                    kube-apiserver" and "ready kube-apiserver"
  --while forever   not before
The programs are then killed and what they and it made in DIR is removed (a temporary folder with all that is in it);
with --keep everything stays.
`

// up is the sub-command; it returns the exit code.
func up(arguments []string) int {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, upUsage) }
	dir := flags.String("dir", "", "")
	while := flags.String("while", "parent", "")
	keep := flags.Bool("keep", false, "")
	if err := flags.Parse(arguments); err != nil {
		return 2
	}
	if flags.NArg() > 0 || (*while != "parent" && *while != "stdin" && *while != "forever") {
		flags.Usage()
		return 2
	}
	// The programs get SIGKILL from the kernel when the thread that started them ends, so that not even a SIGKILL to
	// this process leaves them behind. This goroutine starts them all and lasts as long as the process; so must its thread.
	runtime.LockOSThread()
	if err := runCluster(*dir, *while, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "test cluster:", err)
		return 1
	}
	return 0
}

func runCluster(dir, while string, keep bool) (err error) {
	events := listen(while)
	home, err := claim(dir)
	if err != nil {
		return err
	}
	plane := newControlPlane(home.dir, events)
	defer func() {
		plane.stopAll()
		if !keep {
			err = errors.Join(err, home.release())
		}
	}()

	for attempt := 1; ; attempt++ {
		err = plane.start()
		if err == nil {
			break
		}
		if errors.Is(err, errAsked) {
			return nil
		}
		if attempt == startAttempts || !strings.Contains(err.Error(), "address already in use") {
			return err
		}
		plane.stopAll()
		if err := os.RemoveAll(filepath.Join(home.dir, "etcd")); err != nil {
			return err
		}
	}
	fmt.Printf("ready %s\n", filepath.Join(home.dir, "kubeconfig"))
	return plane.serve()
}

// What the outside may tell a running cluster.
type events struct {
	// A value, or closed: end now.
	end <-chan struct{}
	// Lines of standard input.
	commands <-chan string
}

func listen(while string) events {
	end := make(chan struct{}, 1)
	commands := make(chan string)
	finish := func() {
		select {
		case end <- struct{}{}:
		default: // already asked
		}
	}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if while == "forever" {
		signal.Ignore(syscall.SIGHUP) // the terminal that started it may be closed
	} else {
		signal.Notify(signals, syscall.SIGHUP)
	}
	// Whoever read our output may be gone; that must end in a clean-up, not in SIGPIPE.
	signal.Ignore(syscall.SIGPIPE)
	go func() {
		<-signals
		finish()
	}()

	switch while {
	case "parent":
		parent := os.Getppid()
		go func() {
			for range time.Tick(parentInterval) {
				if os.Getppid() != parent {
					finish()
					return
				}
			}
		}()
	case "stdin":
		go func() {
			lines := bufio.NewScanner(os.Stdin)
			for lines.Scan() {
				commands <- lines.Text()
			}
			finish()
		}()
	}
	return events{end, commands}
}

// The folders and files that a cluster makes in its folder, and so what it may remove.
var contents = []string{"pki", "logs", "etcd", "kubeconfig"}

// The folder of a run, and what may be removed of it.
type home struct {
	dir       string
	made      bool // by us, and so the folder itself goes too
	temporary bool // nobody else named it, and so everything in it goes
}

func claim(dir string) (home, error) {
	if dir == "" {
		dir, err := os.MkdirTemp("", "franking-cluster-")
		if err != nil {
			return home{}, err
		}
		return furnish(home{dir, true, true})
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return home{}, err
	}
	entries, err := os.ReadDir(dir)
	made := errors.Is(err, os.ErrNotExist)
	if err != nil && !made {
		return home{}, err
	}
	if len(entries) > 0 {
		return home{}, fmt.Errorf("%s is not empty: name a folder that is new or empty", dir)
	}
	return furnish(home{dir, made, false})
}

func furnish(h home) (home, error) {
	for _, name := range []string{"pki", "logs"} {
		// Private, because the keys are an admin's.
		if err := os.MkdirAll(filepath.Join(h.dir, name), 0o700); err != nil {
			return h, err
		}
	}
	return h, nil
}

func (h home) release() error {
	if h.temporary {
		return os.RemoveAll(h.dir)
	}
	for _, name := range contents {
		if err := os.RemoveAll(filepath.Join(h.dir, name)); err != nil {
			return err
		}
	}
	if !h.made {
		return nil
	}
	// Somebody may have put files of their own beside ours; those are not ours to remove.
	if err := os.Remove(h.dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}
