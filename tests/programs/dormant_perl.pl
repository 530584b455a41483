# Forks, signals, pipes and a socket; no threads.
my %h = map { $_ => $_ ** 2 } 1 .. 10;
print join(",", map { "$_=$h{$_}" } sort { $a <=> $b } keys %h), "\n";
$| = 1;
my $pid = fork // die;
exit 4 unless $pid;
waitpid $pid, 0;
print $? >> 8, "\n";
$SIG{ALRM} = sub { print "alarm\n" };
kill ALRM => $$;
print `echo from a child`;
use Socket;
socketpair my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC or die;
syswrite $a, "through a socket\n";
sysread $b, my $line, 100;
print $line;
opendir my $d, "/proc/self/task";
print scalar(grep /\d/, readdir $d), " task\n";
select undef, undef, undef, 0.01;
