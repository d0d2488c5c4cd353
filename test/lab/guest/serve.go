package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/lab/inside"
)

// serve runs the commands of the host, one after the other, until the host closes the port.
func serve() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	out := json.NewEncoder(port)
	if err := out.Encode(inside.Event{Ready: true}); err != nil {
		return err
	}
	for in := json.NewDecoder(port); ; {
		var c inside.Command
		if err := in.Decode(&c); err != nil {
			return err
		}
		end := inside.Event{Ended: true}
		if end.Exit, err = run(c, func(line string) error { return out.Encode(inside.Event{Line: line}) }); err != nil {
			end.Reason = err.Error()
		}
		if err := out.Encode(end); err != nil {
			return err
		}
	}
}

// openPort opens the port by its name. It waits, since the kernel may not have found the port yet.
func openPort() (*os.File, error) {
	for range 1000 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			if b, _ := os.ReadFile(n); strings.TrimSpace(string(b)) == inside.Port {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio port is called %s", inside.Port)
}

// run runs a command in a new session and returns its exit status.
func run(c inside.Command, line func(string) error) (int, error) {
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Env = c.Dir, append(os.Environ(), c.Env...)
	for _, d := range c.Disks {
		name, serial, _ := strings.Cut(d, "=")
		path, err := disk(serial)
		if err != nil {
			return -1, err
		}
		cmd.Env = append(cmd.Env, inside.Variable(name)+"="+path)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return -1, err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return -1, err
	}
	hung := time.AfterFunc(time.Duration(c.Seconds)*time.Second, func() { end(cmd.Process.Pid) })
	defer hung.Stop()
	read := make(chan error, 1)
	go func() { read <- copyLines(r, line) }()
	waited := cmd.Wait()
	// A process that the command leaves running may keep the pipe open. Its output is not waited for.
	select {
	case err = <-read:
	case <-time.After(5 * time.Second):
	}
	if err != nil {
		return -1, err
	}
	if !hung.Stop() {
		return -1, fmt.Errorf("killed after %d s; the console has what was blocked", c.Seconds)
	}
	if cmd.ProcessState.Exited() {
		return cmd.ProcessState.ExitCode(), nil
	}
	return -1, waited
}

func copyLines(r *os.File, line func(string) error) error {
	for in := bufio.NewReader(r); ; {
		s, err := in.ReadString('\n')
		if s != "" {
			if err := line(strings.TrimSuffix(s, "\n")); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// end lets the kernel write blocked tasks to the console, lets a Go program print its goroutines, and then kills.
func end(pid int) {
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("w"), 0)
	_ = unix.Kill(pid, unix.SIGQUIT)
	time.Sleep(3 * time.Second)
	_ = unix.Kill(-pid, unix.SIGKILL)
}
