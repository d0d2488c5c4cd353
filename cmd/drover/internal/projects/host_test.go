package projects

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// TestComposeErrors: the error that drover makes of a failure of Docker Compose leaves out the quoted values, which can
// be secrets.
func TestComposeErrors(t *testing.T) {
	for _, text := range []string{
		"invalid interpolation format for services.db.environment.PW.\nYou may need to escape any $ with another $.\ns3$cret",
		"failed to read /p/.env: line 1: unterminated quoted value \"s3$cret",
		`failed to read /p/.env: line 3: unexpected character "$" in variable name near "s3$cret=1"`,
		`services.db.ports: strconv.ParseBool: parsing "s3$cret": invalid syntax`,
	} {
		c := dockerCompose{run.Func(func(_ context.Context, c run.Command) (run.Result, error) {
			return run.Result{}, &run.Error{Cmd: c.Name, Args: c.Args, ExitCode: 1, Stderr: text, Err: errors.New("exit status 1")}
		})}
		_, err := c.Config(t.Context(), Project{Name: "shop"}, nil)
		_, errEnv := c.Environment(t.Context(), Project{Name: "shop"})
		for _, err := range []error{err, errEnv} {
			begin, _, _ := strings.Cut(text, ":")
			if begin, _, _ = strings.Cut(begin, "\n"); !errors.Is(err, dataset.ErrConflict) || strings.Contains(err.Error(), "s3") || !strings.Contains(err.Error(), begin) {
				t.Errorf("got %v, want only the part before the value", err)
			}
		}
	}
}

// TestRecreateCommand: containers are recreated in any case, and not started.
func TestRecreateCommand(t *testing.T) {
	r := &run.Recorder{}
	p := Project{Name: "shop", Dir: "/p", Files: []string{"/p/compose.yaml"}}
	_ = dockerCompose{r}.Recreate(t.Context(), p, map[string]int{"web": 2, "db": 1})
	want := "compose --project-name shop --project-directory /p --file /p/compose.yaml --progress quiet --profile * up " +
		"--no-start --force-recreate --no-deps --pull missing --scale db=1 --scale web=2 -- db web"
	if got := r.Calls(); len(got) != 1 || strings.Join(got[0].Args, " ") != want || !slices.Contains(got[0].Args, "--force-recreate") {
		t.Errorf("got %v", got)
	}
}
