package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	// A start takes 4 s on 2 idle cores; a machine that compiles at the same time gets plenty.
	startDeadline = 180 * time.Second
	pollInterval  = 25 * time.Millisecond
	probeTimeout  = 5 * time.Second
	// Enough for the line that says why a program ended, and a Go panic's first frames.
	logTail = 3000
)

// errAsked ends a start because the outside asked for it; nothing went wrong.
var errAsked = errors.New("asked to end")

type controlPlane struct {
	dir     string
	events  events
	ports   ports
	running map[string]*program
	ended   chan *program
}

type program struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

func newControlPlane(dir string, events events) *controlPlane {
	// Buffered beyond the number of programs and restarts that can be unread at a time, so that no waiter is stuck.
	return &controlPlane{dir: dir, events: events, running: map[string]*program{}, ended: make(chan *program, 16)}
}

// start brings everything up, each program as soon as the one it needs answers.
func (p *controlPlane) start() error {
	var err error
	if p.ports, err = choosePorts(); err != nil {
		return err
	}
	if err := writePKI(p.dir, p.ports.api); err != nil {
		return err
	}
	if err := p.launch("etcd", p.etcdArguments()); err != nil {
		return err
	}
	if err := p.await("etcd", http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d/health", p.ports.etcd)); err != nil {
		return err
	}
	if err := p.startAPIServer(); err != nil {
		return err
	}
	if err := p.launch("kube-controller-manager", p.controllerManagerArguments()); err != nil {
		return err
	}
	// The controller manager serves no port of its own here: that it works is seen by what it makes.
	return p.awaitAPI("kube-controller-manager", "/api/v1/namespaces/default/serviceaccounts/default")
}

func (p *controlPlane) startAPIServer() error {
	if err := p.launch("kube-apiserver", p.apiServerArguments()); err != nil {
		return err
	}
	return p.awaitAPI("kube-apiserver", "/readyz")
}

// serve runs until the end is asked for (no error) or a program ends by itself (an error).
func (p *controlPlane) serve() error {
	for {
		select {
		case <-p.events.end:
			return nil
		case ended := <-p.ended:
			if p.running[ended.name] == ended {
				return p.died(ended)
			}
		case command := <-p.events.commands:
			answer, err := p.obey(command)
			if errors.Is(err, errAsked) {
				return nil
			}
			if err != nil {
				return err
			}
			fmt.Println(answer)
		}
	}
}

func (p *controlPlane) obey(command string) (answer string, err error) {
	const server = "kube-apiserver"
	up := p.running[server] != nil
	switch {
	case command == "stop "+server && up:
		p.stop(server)
		return "stopped " + server, nil
	case command == "start "+server && !up:
		return "ready " + server, p.startAPIServer()
	}
	return fmt.Sprintf("refused %q: kube-apiserver up: %t", command, up), nil
}

func (p *controlPlane) etcdArguments() []string {
	client := fmt.Sprintf("http://127.0.0.1:%d", p.ports.etcd)
	peer := fmt.Sprintf("http://127.0.0.1:%d", p.ports.peer)
	return []string{
		"--name=test",
		"--data-dir=" + filepath.Join(p.dir, "etcd"),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=test=" + peer,
		// The data is thrown away with the run, so a power cut may have it.
		"--unsafe-no-fsync",
		"--log-level=warn",
	}
}

func (p *controlPlane) apiServerArguments() []string {
	return []string{
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", p.ports.etcd),
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", p.ports.api),
		"--tls-cert-file=" + p.pki("server.crt"), "--tls-private-key-file=" + p.pki("server.key"),
		"--client-ca-file=" + p.pki("ca.crt"),
		"--authorization-mode=Node,RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + p.pki("service-account.pub"),
		"--service-account-signing-key-file=" + p.pki("service-account.key"),
		"--service-cluster-ip-range=10.96.0.0/16",
		// It would refuse to publish a loopback address as the endpoint of the Service `kubernetes`.
		"--endpoint-reconciler-type=none",
		"--allow-privileged",
		"--profiling=false",
	}
}

func (p *controlPlane) controllerManagerArguments() []string {
	return []string{
		"--kubeconfig=" + filepath.Join(p.dir, "kubeconfig"),
		"--leader-elect=false",
		"--secure-port=0",
		"--root-ca-file=" + p.pki("ca.crt"),
		"--service-account-private-key-file=" + p.pki("service-account.key"),
		"--profiling=false",
	}
}

func (p *controlPlane) pki(name string) string { return filepath.Join(p.dir, "pki", name) }

func (p *controlPlane) logPath(name string) string {
	return filepath.Join(p.dir, "logs", name+".log")
}

// launch runs this same binary under another name.
func (p *controlPlane) launch(name string, arguments []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.logPath(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(self)
	cmd.Args = append([]string{name}, arguments...)
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that a Ctrl-C in the terminal reaches us alone and we end in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	child := &program{name, cmd, make(chan struct{})}
	p.running[name] = child
	go func() {
		_ = cmd.Wait() // how it ended is in its state
		close(child.done)
		p.ended <- child
	}()
	return nil
}

// stop kills at once: all state is thrown away, so there is nothing a graceful end would save. It returns when the
// process is gone.
func (p *controlPlane) stop(name string) {
	child := p.running[name]
	delete(p.running, name)
	_ = child.cmd.Process.Kill() // fails only when it ended by itself
	<-child.done
}

func (p *controlPlane) stopAll() {
	// Dependents first, so that none logs that it lost another.
	for _, name := range []string{"kube-controller-manager", "kube-apiserver", "etcd"} {
		if p.running[name] != nil {
			p.stop(name)
		}
	}
}

func (p *controlPlane) died(ended *program) error {
	return fmt.Errorf("%s ended by itself (%s); the end of its log:\n%s", ended.name, ended.cmd.ProcessState, p.tail(ended.name))
}

func (p *controlPlane) tail(name string) []byte {
	log, err := os.ReadFile(p.logPath(name))
	if err != nil {
		return []byte(err.Error())
	}
	if len(log) > logTail {
		// From the first whole line on.
		_, log, _ = bytes.Cut(log[len(log)-logTail:], []byte("\n"))
	}
	return bytes.TrimSpace(log)
}

// awaitAPI asks as the admin until the API server says 200.
func (p *controlPlane) awaitAPI(name, path string) error {
	ca, err := os.ReadFile(p.pki("ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	admin, err := tls.LoadX509KeyPair(p.pki("admin.crt"), p.pki("admin.key"))
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{admin}}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: probeTimeout}
	return p.await(name, client, fmt.Sprintf("https://127.0.0.1:%d%s", p.ports.api, path))
}

// await polls until the address answers 200, a program ends, the end is asked for, or it took too long.
func (p *controlPlane) await(name string, client *http.Client, address string) error {
	deadline := time.After(startDeadline)
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	last := "no answer yet"
	for {
		select {
		case <-p.events.end:
			return errAsked
		case ended := <-p.ended:
			if p.running[ended.name] == ended {
				return p.died(ended)
			}
		case <-deadline:
			return fmt.Errorf("%s is not ready after %s: %s: %s; the end of its log:\n%s", name, startDeadline, address, last, p.tail(name))
		case <-poll.C:
			response, err := client.Get(address)
			if err != nil {
				last = err.Error()
				continue
			}
			_ = response.Body.Close() // only the status matters
			if response.StatusCode == http.StatusOK {
				return nil
			}
			last = response.Status
		}
	}
}

type ports struct{ api, etcd, peer int }

// choosePorts asks the kernel for free ones and holds all three until all are known, so that they differ. Another
// process may still take one before it is used; then the start is tried again.
func choosePorts() (ports, error) {
	var chosen [3]int
	for i := range chosen {
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(0)))
		if err != nil {
			return ports{}, fmt.Errorf("looking for a free port: %w", err)
		}
		defer listener.Close()
		chosen[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports{chosen[0], chosen[1], chosen[2]}, nil
}
