package quality

import (
	"go/ast"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var (
	// destructive matches a command of drover that destroys data. The rest of the hint is its arguments and flags, up
	// to the next command or sign.
	destructive = regexp.MustCompile(`drover (volume rm|copy discard|trash purge|pool rm|node rm|snapshot rm|` +
		`doctor --gc)\b[^,;:()]*`)
	looksOnly = regexp.MustCompile(`--dry-run\b`)
)

// destructiveHints returns the commands in a text that destroy data if a person copies them.
func destructiveHints(text string) (found []string) {
	for _, command := range destructive.FindAllString(text, -1) {
		if !looksOnly.MatchString(command) {
			found = append(found, command)
		}
	}
	return found
}

// TestHintsDestroyNothing refuses hints in errors, logs and findings with a command that destroys data: a person who
// copies the hint must not lose anything. A hint may have the command with --dry-run. Help texts describe commands, and
// may name them all.
func TestHintsDestroyNothing(t *testing.T) {
	for _, m := range collectMessages(t) {
		if m.help {
			continue
		}
		for _, command := range destructiveHints(m.text) {
			t.Errorf("%s: %q suggests %q (say what is lost and how to look first, for example with --dry-run)",
				m.at, m.text, command)
		}
	}
	for text, bad := range map[string]int{
		"is lost (drover volume rm %s)":                                          1,
		"is lost (drover volume rm %s --dry-run)":                                0,
		"drover doctor --gc … destroys it, drover doctor --gc … --dry-run shows": 1,
		"drover trash ls, drover trash purge NAME":                               1,
		"drover volume rmdir":                                                    0,
		"drover pool rm %s --forget --dry-run":                                   0,
		"drover volume inspect %s":                                               0,
	} {
		if got := destructiveHints(text); len(got) != bad {
			t.Errorf("%q: found %q", text, got)
		}
	}
}

// identifier matches a word in the spelling of an unexported Go identifier, such as missingNames. A verb such as %s may
// precede a unit, as in %sGiB.
var identifier = regexp.MustCompile(`(?:^|[^%\w])([a-z]+[A-Z][a-z]\w*)`)

// TestMessagesHaveNoIdentifiers refuses the names of Go code in texts for people. A rename of an identifier that also
// changes a string makes such a text.
func TestMessagesHaveNoIdentifiers(t *testing.T) {
	for _, m := range collectMessages(t) {
		if found := identifier.FindStringSubmatch(m.text); found != nil {
			t.Errorf("%s: %q contains the identifier %s", m.at, m.text, found[1])
		}
	}
}

// A message is a text that a person can read in the output or in the log of the program.
type message struct {
	at   token.Position
	text string
	help bool // describes a command or a flag
}

// collectMessages returns the texts of the program.
func collectMessages(t *testing.T) []message {
	var all []message
	for _, s := range sources(t) {
		if isProduct(s, filepath.ToSlash(filepath.Dir(s.name))) {
			ast.Walk(&collector{source: s, found: &all}, s.file)
		}
	}
	if len(all) < 1000 {
		t.Fatalf("only %d messages found", len(all))
	}
	return all
}

// isProduct reports whether a file is part of the program, not of its tests.
func isProduct(s source, dir string) bool {
	for part := range strings.SplitSeq(dir, "/") {
		if part != "backendtest" && (strings.HasSuffix(part, "test") || part == "tools" || part == "long") {
			return false // the texts of backendtest appear in drover backend verify
		}
	}
	return !s.isTest()
}

// A collector visits a file and adds the texts in it to found.
type collector struct {
	source source
	found  *[]message
	help   bool // the visited node is part of a help text
}

// Visit implements ast.Visitor.
func (c *collector) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.ImportSpec:
		return nil
	case *ast.Field:
		if n.Tag != nil { // a tag of a struct is no text
			ast.Walk(c, n.Type)
			return nil
		}
	case *ast.FuncLit, *ast.BlockStmt:
		return &collector{c.source, c.found, false}
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok && slices.Contains([]string{"Use", "Short", "Long", "Example"}, key.Name) {
			return &collector{c.source, c.found, true}
		}
	case *ast.BinaryExpr, *ast.BasicLit:
		text, isText := concatenate(n.(ast.Expr))
		if !isText {
			return c
		}
		if words.MatchString(text) && !machineText.MatchString(text) {
			*c.found = append(*c.found, message{c.source.set.Position(n.Pos()), text, c.help})
		}
		return nil
	}
	return c
}

// concatenate returns the value of a string literal or a sum of strings. Each operand that is no literal becomes "…".
func concatenate(n ast.Expr) (text string, isText bool) {
	switch n := n.(type) {
	case *ast.BasicLit:
		if n.Kind == token.STRING {
			text, err := strconv.Unquote(n.Value)
			return text, err == nil
		}
	case *ast.BinaryExpr:
		if n.Op == token.ADD {
			left, isLeft := concatenate(n.X)
			right, isRight := concatenate(n.Y)
			return left + right, isLeft || isRight
		}
	}
	return "…", false
}

var (
	words = regexp.MustCompile(`\pL\pL.* |\s\S*\pL\pL`) // a word and a space, in any order
	// machineText matches what only programs read: arguments of other programs, routes, media types.
	machineText = regexp.MustCompile(`^[^a-z]*$|[\x00-\x08\r]|` +
		`^\s*(GET|PUT|POST|DELETE|PATCH|HEAD) /|^[a-z-]+/[a-z-]+; ?charset`)
)
