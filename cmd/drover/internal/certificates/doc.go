// Package certificates has the commands of drover ca, which work on the certificate authority of a cluster. Package
// main adds them to the command tree. The only state is the folder of the authority, which package pki locks during a
// change.
package certificates
