package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/lan"
)

// role is the environment variable that names the role of this program on a host of a campaign.
const role = "DROVER_CHAOS_ROLE"

// Play runs this program in the role that the variable role names, and does not return. A campaign sets the variable
// for the programs that it starts on a host. If it is not set, Play returns at once. TestMain calls Play first.
func Play() {
	var err error
	switch part := os.Getenv(role); part {
	case "":
		return
	case "engine":
		err = playEngine(os.Args[1], os.Args[2])
	case "stranger":
		err = playStranger(os.Args[1], os.Args[2])
	case "load":
		err = playLoad(os.Args[1])
	default:
		err = fmt.Errorf("no role %q", part)
	}
	fmt.Fprintln(os.Stderr, os.Getenv(role)+":", err)
	os.Exit(1)
}

// play starts this program in the role what on a machine, with a nice value. The process ends with the test. If line is
// not nil, it is called with each line of the output.
func play(on *lan.Machine, what, log string, nice int, line func(string), args ...string) (*child.Process, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args = append([]string{"nice", "-n", strconv.Itoa(nice), program}, args...)
	return child.Start(child.Spec{Args: on.Command(args...), Log: log, Env: []string{role + "=" + what}, Line: line})
}

// playEngine is the process of a Docker engine as a plugin sees it. It activates the plugin once, and forwards all
// requests from its socket to the plugin's socket.
func playEngine(socket, plugin string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	activated := make(chan struct{})
	go func() {
		defer close(activated)
		for activate(plugin) != nil { // an engine also repeats the request while the plugin is unreachable
			time.Sleep(50 * time.Millisecond)
		}
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			<-activated
			relay(conn, plugin)
		}()
	}
}

func activate(plugin string) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", plugin)
		},
	}}
	resp, err := client.Post("http://plugin/Plugin.Activate", "application/json", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("activation: %s", resp.Status)
	}
	return nil
}

// relay copies between a connection and one to the plugin until either ends.
func relay(conn net.Conn, plugin string) {
	defer conn.Close()
	to, err := net.Dial("unix", plugin)
	if err != nil {
		return
	}
	defer to.Close()
	ended := make(chan struct{}, 2)
	forward := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // how it ends, the other side sees
		ended <- struct{}{}
	}
	go forward(to, conn)
	go forward(conn, to)
	<-ended
}

// playStranger is a process that uses no volume, with many descriptors, as another user.
func playStranger(descriptors, uid string) error {
	n, err1 := strconv.Atoi(descriptors)
	id, err2 := strconv.Atoi(uid)
	null, err3 := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	for range n {
		if _, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return err
		}
	}
	if err := errors.Join(unix.Setgid(id), unix.Setuid(id)); err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		time.Sleep(time.Hour)
	}
}

// playLoad keeps a host busy: two loops, a process after the other, and memory that is written to.
func playLoad(mebibytes string) error {
	n, err := strconv.Atoi(mebibytes)
	if err != nil {
		return err
	}
	var turns atomic.Int64
	for range 2 {
		go func() {
			for {
				turns.Add(1)
			}
		}()
	}
	memory := make([]byte, n<<20)
	for {
		for i := 0; i < len(memory); i += os.Getpagesize() {
			memory[i]++
		}
		if err := exec.Command("true").Run(); err != nil {
			return err
		}
	}
}
