// Command writer writes to a volume until it is killed. It writes one line at a time, with an fsync, through a file
// that it opens once, and notes each write outside of the volume. It continues after errors, so a fence must stop it.
// It can run in a separate mount namespace, as in a container, and in a copy of such a namespace, which outlives the
// container. Package test/cluster builds the program (WriterProgram). Packages test/cluster and test/chaos start it.
// Its only state is its notes, in a log file that no other process writes.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/cluster/witness"
)

func init() { runtime.LockOSThread() } //nolint:gochecknoinits // the thread that enters a namespace starts the program

func main() {
	var o options
	var b box
	flag.StringVar(&o.file, "file", "", "`FILE` in the volume")
	flag.StringVar(&o.log, "log", "", "`FILE` outside of it")
	flag.StringVar(&o.entry.Dataset, "dataset", "", "`UUID` of the dataset")
	flag.StringVar(&o.entry.Node, "node", "", "`NAME` of the node")
	flag.StringVar(&o.entry.Writer, "writer", "", "`NAME` that no other process has")
	flag.Uint64Var(&o.entry.Epoch, "epoch", 0, "epoch under which the volume was mounted")
	flag.DurationVar(&o.every, "every", 2*time.Millisecond, "pause between two writes")
	flag.IntVar(&o.descriptors, "descriptors", 0, "open this `NUMBER` of additional descriptors")
	flag.StringVar(&b.root, "root", "", "run as in a container, whose root this empty `FOLDER` becomes")
	flag.StringVar(&b.volume, "volume", "", "with -root: the `FOLDER` that is /data")
	flag.StringVar(&b.logs, "logs", "", "with -root: the `FOLDER` that is /logs")
	flag.IntVar(&b.beside, "beside", 0, "run in a copy of the mount namespace of a writer with -root, of this `PID`")
	flag.Parse()
	err := b.enter(remaining())
	if err == nil {
		err = o.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "writer:", err)
		os.Exit(1)
	}
}

// remaining returns the arguments without those of the box.
func remaining() (args []string) {
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "root", "volume", "logs", "beside":
		default:
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	return args
}

type options struct {
	file, log   string
	entry       witness.Entry // note about the next write
	every       time.Duration
	descriptors int
}

// run ends only with an error: it cannot open a file, or cannot write its log.
func (o *options) run() error {
	f, err := os.OpenFile(o.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	log, err := os.OpenFile(o.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	for range o.descriptors {
		if _, err := unix.FcntlInt(log.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open %d descriptors: %w", o.descriptors, err)
		}
	}
	for tick := time.Tick(o.every); ; <-tick {
		o.entry.Seq++
		if err := o.write(f); err != nil {
			return err
		}
		line, err := json.Marshal(o.entry)
		if err != nil {
			return err
		}
		if _, err := log.Write(append(line, '\n')); err != nil {
			return err
		}
	}
}

// write writes one token and measures the time. The entry records the result.
func (o *options) write(f *os.File) (err error) {
	text := o.entry.Token.String() + "\n"
	if o.entry.Err != "" {
		text = "\n" + text // the previous write may have left half a line
	}
	o.entry.Err = ""
	if o.entry.Begin, err = witness.Now(); err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		o.entry.Err = err.Error()
	} else if err := f.Sync(); err != nil {
		o.entry.Err = err.Error()
	}
	o.entry.End, err = witness.Now()
	return err
}
